"""The contract of devices: what a driver does and may not do, and what no learner can reach."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import nprobot
from nprobot.deploy.server import MessageServer
from nprobot.errors import ArchitectureError, ChipError, ConfigError, DamagedFileError
from nprobot.policies import mlp
from nprobot.policies.chip import put_on_chip
from nprobot.policies.chip.contract import ArraySpec, Chip, OuterProduct, WeightChange
from nprobot.policies.chip.crossbar import attachments, off_chip_copy, read_back, recognise
from nprobot.policies.chip.emulated import EmulatedChip, parse_layers
from nprobot.policies.chip.recorded import RecordingChip, ReplayedChip
from nprobot.policies.chip.remote import ChipMessages, RemoteChip, pack, unpack

zmq = pytest.importorskip("zmq")

LAYERS = parse_layers("3,5,4,2", "tanh")
DRIVER = Path(__file__).parents[3] / "scripts" / "examples" / "chip_driver.py"


@pytest.fixture
def served():
    """Serves chips from a thread; gives their addresses."""
    servers = []

    def serve(chip):
        server = MessageServer(ChipMessages(chip), "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve)
        thread.start()
        servers.append((server, thread))
        return server.endpoint

    yield serve
    for server, thread in servers:
        server.stop()
        thread.join()
        server.close()


@pytest.fixture
def driver():
    """The reference driver in a process of its own; gives its address."""
    with zmq.Context() as context, context.socket(zmq.REP) as probe:
        port = probe.bind_to_random_port("tcp://127.0.0.1")
    command = [sys.executable, str(DRIVER), "--sizes", "3,5,4,2", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert "Serving" in process.stdout.readline()
        yield f"tcp://127.0.0.1:{port}"
        process.terminate()


def rows(count=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


@pytest.mark.parametrize("where", ["here", "remote", "driver"])
def test_every_driver_keeps_the_contract(where, request, served):
    if where == "driver":
        chip = RemoteChip(request.getfixturevalue("driver"))
    else:
        chip = EmulatedChip("capacitor", LAYERS, seed=0)
        chip = RemoteChip(served(chip)) if where == "remote" else chip
    assert isinstance(chip, Chip)
    assert list(chip.layers) == LAYERS
    shown = chip.forward(rows())
    assert [a.shape for a in shown] == [(6, 5), (6, 4), (6, 2)]
    (part,) = chip.forward(np.tanh(shown[0]), 1, 1)
    assert np.abs(part - shown[1]).max() < 0.6  # both noisy

    chip.write([(np.full((n, d), 0.1), np.zeros(n)) for d, n in ((3, 5), (5, 4), (4, 2))])
    before = chip.read()
    assert abs(before[0][0].mean() - 0.1) < 0.02
    one = np.ones((5, 3), np.float32)
    chip.update([WeightChange(0, 0.2 * one, np.zeros(5, np.float32))])
    assert abs(chip.read()[0][0].mean() - 0.3) < 0.06
    errors, inputs = np.ones((4, 5), np.float32), np.ones((4, 3), np.float32)
    chip.update([OuterProduct(0, errors, inputs, 0.05)])
    assert abs(chip.read()[0][0].mean() - 0.1) < 0.06
    assert chip.ledger()["pulses"] > 0
    assert chip.identity == chip.identity


def test_a_network_learns_on_a_chip_a_minibatch_a_request(served):
    chip = RemoteChip(served(EmulatedChip("capacitor", seed=0)))
    net = mlp([3, 16, 2])
    noisy = nprobot.NoisyNetwork(net, chip)
    x = torch.tensor(rows(256))
    target = torch.stack([x[:, 0] - x[:, 1], torch.tanh(x[:, 2])], 1)
    rule = nprobot.learning_rule("np+feedback", seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    errors = []
    for step in range(200):
        before = chip.requests
        optimizer.zero_grad()
        losses = rule.backward(noisy, x, lambda y: (y - target).square().mean(-1))
        optimizer.step()
        errors.append(float(losses.mean()))
        assert chip.requests - before == 1 or step < 2
    assert errors[-1] < errors[0] / 10
    believed = net[0].weight.clone()
    read_back(net)
    assert not torch.equal(believed, net[0].weight)  # what a device makes of what it is asked for
    assert torch.allclose(believed, net[0].weight, atol=0.2)
    there = chip.read()[0][0]
    assert np.array_equal(there, net[0].weight.detach().numpy())
    plain = off_chip_copy(net)
    assert torch.equal(plain(x), plain(x))


def test_feedback_jumps_over_a_layer_that_the_chip_does_not_show(served):
    chip = EmulatedChip("exact", parse_layers("3,16,16,2", "tanh", [1]), seed=0)
    noisy = nprobot.NoisyNetwork(mlp([3, 16, 16, 2]), RemoteChip(served(chip)))
    x = torch.tensor(rows(256))
    target = torch.stack([x[:, 0] - x[:, 1], torch.tanh(x[:, 2])], 1)
    rule = nprobot.learning_rule("np+feedback", seed=0)
    optimizer = torch.optim.Adam(noisy.parameters(), 1e-2)
    errors = []
    before = [layer[0].copy() for layer in chip.read()]
    for _ in range(150):
        optimizer.zero_grad()
        losses = rule.backward(noisy, x, lambda y: (y - target).square().mean(-1))
        optimizer.step()
        errors.append(float(losses.mean()))
    assert errors[-1] < errors[0] / 2
    read_back(noisy)
    moved = [np.abs(a - b[0]).max() for a, b in zip(before, chip.read(), strict=True)]
    assert moved[0] > 0.05


def test_what_another_process_holds_is_not_in_this_one(driver):
    """Nothing that the learner's process can see has the true weights of the chip, bit for bit."""
    net = mlp([3, 5, 4, 2])
    put_on_chip(net, driver)
    net(torch.tensor(rows()))
    for layer in (m for m in net.modules() if isinstance(m, torch.nn.Linear)):
        layer.weight.data += 0.01
    net(torch.tensor(rows()))  # the chip has done now what it makes of that, and nobody has read it
    secret = RemoteChip(driver).read()[0][0].tobytes()
    # Fake tensors, which an export leaves behind, hold nothing.
    kinds = (np.ndarray, torch.Tensor, torch.nn.Parameter)
    seen = [o for o in gc.get_objects() if type(o) in kinds]
    held = [np.asarray(o.detach() if isinstance(o, torch.Tensor) else o) for o in seen]
    assert not any(h.nbytes == len(secret) and h.tobytes() == secret for h in held)


class Faulty:
    """A chip that begins well."""

    identity = "faulty"
    layers = (ArraySpec(3, 2),)

    def __init__(self, says):
        self.says = says

    def forward(self, inputs, first=0, last=None):
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def update(self, changes):
        pass

    def read(self):
        return [(np.ones((2, 3), np.float32), np.zeros(2, np.float32))]


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ([np.full((6, 2), np.nan, np.float32)], "not finite"),
        ([np.zeros((5, 2), np.float32)], r"shape \(5, 2\)"),
        ([], "shows 0"),
        ([None], "does not show"),
        (OSError("no power"), "no power"),
    ],
)
def test_what_cannot_be_is_a_typed_error(says, message, served):
    net = mlp([3, 2])
    put_on_chip(net, RemoteChip(served(Faulty(says))))
    with pytest.raises(ChipError, match=message):
        net(torch.tensor(rows()))


def test_nobody_answers():
    with pytest.raises(ChipError, match=r"did not answer within 0\.1 s"):
        RemoteChip("tcp://127.0.0.1:9", timeout=0.1)
    with pytest.raises(ConfigError, match="tcp://"):
        RemoteChip("localhost")


def test_the_network_has_to_be_that_of_the_chip():
    chip = EmulatedChip("exact", LAYERS)
    with pytest.raises(ConfigError, match="3 to 5"):
        put_on_chip(mlp([3, 6, 4, 2]), chip)
    with pytest.raises(ConfigError, match="3 to 5"):
        put_on_chip(mlp([3, 5, 4, 2], activation="relu"), chip)
    with pytest.raises(ArchitectureError, match="ELU"):
        put_on_chip(mlp([3, 5, 4, 2], activation="elu"), "ecram")

    class Doubled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.second = torch.nn.Linear(3, 5), torch.nn.Tanh(), mlp([5, 2])

        def forward(self, x):
            return self.second(2 * self.act(self.first(x)))

    net = Doubled()
    put_on_chip(net, "exact", seed=0)
    with pytest.raises(ArchitectureError, match="something else before layer 1"):
        net(torch.tensor(rows()))


def test_messages_that_make_no_sense_are_answered():
    messages = ChipMessages(EmulatedChip("exact", LAYERS, seed=0))
    nan = pack(np.full((5, 3), np.nan, np.float32))
    for message in (
        *(b"", b"[]", b"{", b'{"type": "fly"}', b'{"type": "forward"}'),
        json.dumps({"type": "forward", "inputs": {"shape": [9, 9], "float32": ""}}).encode(),
        json.dumps({"type": "configure", "layers": [{"inputs": 1, "outputs": 1}]}).encode(),
        json.dumps(
            {"type": "update", "changes": [{"layer": 0, "weights": nan, "bias": nan}]}
        ).encode(),
    ):
        assert json.loads(messages.answer(message))["type"] == "error"
    reply = json.loads(messages.answer(b'{"type": "read", "id": 3}'))
    assert reply["id"] == 3
    assert unpack(reply["weights"][1]["weights"]).shape == (4, 5)


def test_a_chip_is_kept_with_all_that_it_knows_and_goes_on():
    chip = EmulatedChip("pcm", LAYERS, seed=5)
    chip.advance(100.0)
    capsule = chip.save()
    expected = chip.forward(rows())[-1]
    twin = EmulatedChip("pcm", seed=5)
    twin.restore(capsule)
    assert twin.identity == chip.identity
    assert np.array_equal(twin.forward(rows())[-1], expected)
    with pytest.raises(DamagedFileError):
        EmulatedChip("pcm", seed=6).restore(capsule)


def test_a_learner_goes_on_with_the_chip_that_it_finds():
    chip = EmulatedChip("ecram", LAYERS, seed=0)
    net = mlp([3, 5, 4, 2])
    put_on_chip(net, chip)
    net(torch.tensor(rows()))
    (attachment,) = attachments(net)
    recognise(net)
    saved = {"identity": chip.identity, "state": ""}
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    chip.update([WeightChange(0, np.full((5, 3), 0.1, np.float32), np.zeros(5, np.float32))])
    attachment.restore(saved)  # the same chip, which has learned on: it is read
    assert torch.equal(net[0].weight, torch.from_numpy(chip.read()[0][0]))
    assert float((net[0].weight - kept["0.weight"]).mean()) > 0.05
    net.load_state_dict(kept)
    attachment.restore({"identity": "another", "state": ""})  # one that has lost its weights
    assert torch.allclose(net[0].weight, kept["0.weight"], atol=0.02)
    chip.write([(-w, -b) for w, b in chip.read()])
    with pytest.raises(ConfigError, match="does not hold this policy"):
        recognise(net)


def test_a_recorded_session_is_replayed_to_the_letter(tmp_path):
    def learn(chip):
        torch.manual_seed(0)
        net = mlp([3, 5, 4, 2])
        noisy = nprobot.NoisyNetwork(net, chip)
        rule = nprobot.learning_rule("np+feedback", seed=0)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(5):
            optimizer.zero_grad()
            rule.backward(noisy, torch.tensor(rows()), lambda y: y.square().mean(-1))
            optimizer.step()
        read_back(net)
        return torch.cat([p.flatten() for p in net.parameters()])

    recording = RecordingChip(EmulatedChip("ecram", LAYERS, seed=0), tmp_path / "session.jsonl")
    expected = learn(recording)
    assert torch.equal(learn(ReplayedChip(tmp_path / "session.jsonl")), expected)
    with pytest.raises(ChipError, match="other inputs"):
        nprobot.NoisyNetwork(mlp([3, 5, 4, 2]), ReplayedChip(tmp_path / "session.jsonl"))(
            torch.tensor(rows(seed=1))
        )
