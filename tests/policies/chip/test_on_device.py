"""Algorithms, fits and adaptation on a device that is known by its contract alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

import nprobot
from nprobot.deploy.server import MessageServer
from nprobot.errors import ChipError, ConfigError, NoiseInaccessibleError
from nprobot.policies.chip import EmulatedChip, RemoteChip
from nprobot.policies.chip.crossbar import ChipLayer
from nprobot.policies.chip.remote import ChipMessages
from nprobot.regression import fit, resume
from nprobot.training.evaluation import put_on_chip

pytest.importorskip("zmq")


@pytest.fixture
def address():
    """Of a chip of no shape yet, which a thread serves."""
    server = MessageServer(ChipMessages(EmulatedChip("capacitor", seed=0)), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server.endpoint
    server.stop()
    thread.join()
    server.close()


def made(algorithm, chip, **kwargs):
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    own = {"n_steps": 32} if algorithm in (nprobot.PPO, nprobot.NRL) else {"learning_starts": 20}
    if algorithm is not nprobot.NRL:
        own |= {"batch_size": 32}
    own["node_noise" if algorithm is nprobot.NRL else "chip"] = chip
    small = {"policy_kwargs": {"net_arch": [8, 8]}, "seed": 3, "device": "cpu"}
    return algorithm("MlpPolicy", env, **small | own | kwargs)


def actor(model):
    policy = model.policy
    if isinstance(model, nprobot.PPO):
        return nn.ModuleList([policy.mlp_extractor.policy_net, policy.action_net])
    return policy.actor


@pytest.mark.parametrize(
    ("algorithm", "rule"),
    [
        (nprobot.PPO, "np+feedback"),
        (nprobot.PPO, "danp"),
        (nprobot.PPO, "bp"),
        (nprobot.SAC, "np+feedback"),
        (nprobot.TD3, "danp"),
        (nprobot.NRL, "np+feedback"),
        (nprobot.NRL, "anp"),
    ],
)
def test_what_acts_learns_on_the_device(algorithm, rule, address):
    model = made(algorithm, address, rule=rule)
    chip = RemoteChip(address)
    layers = [m for m in actor(model).modules() if isinstance(m, ChipLayer)]
    assert len(layers) == len(chip.layers) == (2 if algorithm is nprobot.SAC else 3)
    model.learn(128)
    assert chip.ledger()["updates"] >= 1
    state = model.state_dict()  # reads the weights back
    for layer, (weight, bias) in zip(layers, chip.read(), strict=True):
        assert np.array_equal(layer.weight.detach().numpy(), weight)
        assert np.array_equal(layer.bias.detach().numpy(), bias)
    model.load_state_dict(state)
    assert (model.rule.backward_passes == 0) == (rule != "bp")


def test_a_rule_that_has_to_know_the_noise_is_refused(address):
    with pytest.raises(NoiseInaccessibleError):
        made(nprobot.PPO, address, rule="np")


def test_a_policy_is_evaluated_on_the_chip_that_holds_it_and_on_no_other(address):
    from nprobot.policies.files.from_sb3 import export_policy

    model = made(nprobot.PPO, address)
    model.learn(64)
    policy = export_policy(model)
    seen = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    acted = put_on_chip(policy, address, 0)(seen)
    assert np.abs(acted - policy.predict(seen)).mean() < 0.2
    other = export_policy(made(nprobot.PPO, None, seed=8))
    with pytest.raises(ConfigError, match="does not hold this policy"):
        put_on_chip(other, address, 0)


def test_a_fit_learns_on_a_device_and_goes_on_there(tmp_path, address):
    x = np.random.default_rng(0).normal(size=(600, 3))
    data = x, np.stack([x[:, 0] - x[:, 1], np.tanh(x[:, 2])], 1)
    options = {"batch_size": 32, "learning_rate": 1e-2, "out": tmp_path / "fit"}
    result = fit([16], data, chip=address, epochs=10, **options)
    assert result.scores["test"].error < 0.2
    before = RemoteChip(address).ledger()["pulses"]
    held = RemoteChip(address).read()
    again = resume(tmp_path / "fit", data, epochs=12)
    assert again.epochs == 12
    moved = [
        np.abs(a - b).max() for a, b in zip(held[0], RemoteChip(address).read()[0], strict=True)
    ]
    assert 0.0 < max(moved) < 0.3
    assert RemoteChip(address).ledger()["pulses"] > before
    assert torch.equal(
        again.model(torch.zeros(2, 3)), again.model(torch.zeros(2, 3))
    )  # off the chip


def serve(state, port="0"):
    """A chip in a process of its own; the process and its address."""
    command = [sys.executable, "-m", "nprobot", "chip", "serve", "capacitor"]
    command += ["--state", str(state), "--save-every", "0.05", "--port", port]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = iter(process.stdout.readline, "")
    line = next(line for line in lines if "tcp://" in line)
    return process, "tcp://" + line.split("tcp://")[1].split()[0].strip(";")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_learner_and_chip_may_both_be_killed(tmp_path, lost):
    state, run = tmp_path / "chip.state", tmp_path / "run"
    chip, address = serve(state)
    train = [sys.executable, "-m", "nprobot", "train", "--env", "Pendulum-v1", "--envs", "2"]
    train += ["--steps", "200000", "--checkpoint-every", "128", "--n-steps", "64", "--hidden", "8"]
    learner = subprocess.Popen([*train, "--chip", address, "--out", str(run)])
    while not (run / "checkpoints" / "last").exists():
        assert learner.poll() is None
        threading.Event().wait(0.2)
    learner.send_signal(signal.SIGKILL)
    learner.wait()
    chip.kill()
    chip.wait()
    if lost:
        state.unlink()
    chip, again = serve(state, address.rsplit(":", 1)[1])
    try:
        assert again == address
        config = nprobot.training.RunFolder.open(run).config
        resumed = nprobot.training.resume(run, config.with_options({"steps": 1024}))
        weight = RemoteChip(address).read()[0][0]
        kept = json.loads((run / "checkpoints" / "last" / "policy.json").read_text())
        assert resumed.steps >= 1024
        assert kept["provenance"]["chip"] == address
        assert np.abs(weight).max() > 0.01
    finally:
        chip.terminate()
        chip.wait()


def test_a_chip_that_stops_ends_the_run_with_what_to_do(tmp_path):
    chip = EmulatedChip("capacitor", seed=0)
    left = [40]

    class Stopping(ChipMessages):
        def answer(self, data, client=""):
            left[0] -= 1
            if left[0] < 0:
                return b'{"type": "error", "message": "out of power", "id": 0}'
            return super().answer(data, client)

    server = MessageServer(Stopping(chip), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        with pytest.raises(ChipError, match="answered something else than it was asked"):
            made(nprobot.PPO, server.endpoint).learn(256)
    finally:
        server.stop()
        thread.join()
        server.close()
