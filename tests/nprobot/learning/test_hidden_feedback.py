"""Learned feedback where all noise is hidden: what it reads, where it points, what it learns."""

from __future__ import annotations

import pickle
from unittest import mock

import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from torch import nn
from torch.nn.functional import cosine_similarity

import nprobot
from nprobot import NoisyNetwork, learning_rule
from nprobot.errors import NoiseInaccessibleError, RuleError, UnknownNameError
from nprobot.learning import wiring
from nprobot.learning.hidden_noise import GuidedPasses
from nprobot.policies import mlp
from nprobot.policies.chip.crossbar import (
    ChipDecorrelatedLinear,
    ChipLayer,
    ChipLinear,
    put_on_chip,
)
from nprobot.policies.chip.nonidealities import (
    Converter,
    DeadNodes,
    GaussianNoise,
    MultiplicativeNoise,
    Offset,
    TelegraphNodeNoise,
    WeightMismatch,
)

from .rule_networks import (
    NETWORKS,
    Attention,
    Gated,
    Normalised,
    Residual,
    convolutions,
    gradients,
    squared_error,
)

NAMES = ["np+feedback", "dnp+feedback"]
CHIPS = {
    "white": 0.05,
    "offsets": [0.05, Offset(0.3, spread=0.3)],
    "telegraph": TelegraphNodeNoise(0.05, 0.1),
    "read in few levels": [0.05, Converter(8.0, 255)],
    "mismatched": [WeightMismatch(0.5), 0.05],
    "in proportion to the activity": MultiplicativeNoise(0.1),
    "with dead nodes": [0.05, DeadNodes(0.1)],
    "clipped where it reads": [0.05, Converter(2.0, 255)],
    "analog": "analog",
    "ideal": "ideal",
}


def setting(decorrelated=False, batch=128, sizes=(6, 16, 16, 3)):
    net = mlp(sizes, "tanh", decorrelated=decorrelated).double()
    x = torch.randn(batch, sizes[0], dtype=torch.float64)
    return net, x, squared_error(torch.randn(batch, sizes[-1], dtype=torch.float64))


def mean_gradient(net, steps, step):
    net.zero_grad()
    for _ in range(steps):
        step()
    return gradients(net) / steps


@pytest.mark.parametrize("kind", CHIPS)
@pytest.mark.parametrize("name", NAMES)
def test_the_estimate_points_where_the_gradient_on_the_device_does(name, kind):
    """Of which the weights as written, which is all that backprop has, say less."""
    rule = learning_rule(name, seed=0)
    net, x, loss = setting(rule.decorrelated)
    chip = NoisyNetwork(net, CHIPS[kind], seed=0, device_seed=1)
    for _ in range(60):
        rule.backward(chip, x, loss)
    found = mean_gradient(chip, 20, lambda: rule.backward(chip, x, loss))
    # Node perturbation of the same chip, averaged for long, knows nothing of any matrix.
    on_device = on_the_device(chip, x)
    loss(on_device(x)).mean().backward()
    moves = found != 0  # of a dead node, of which nothing comes, nothing does
    assert moves.float().mean() > 0.75
    assert cosine_similarity(found[moves], gradients(on_device)[moves], dim=0) > 0.98


def on_the_device(chip, x):
    """A noiseless twin of a chip, from what the chip shows of itself on average."""
    twin = chip.off_chip_copy()
    layers = [m for m in chip.modules() if isinstance(m, ChipLayer)]
    others = [m for m in twin.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for layer, other in zip(layers, others, strict=True):
            basis = torch.eye(layer.in_features).double()
            rows = torch.cat([basis, -basis, 0 * basis[:1]]).repeat(500, 1)
            a = layer(rows).view(500, -1, layer.out_features).mean(0)
            other.bias.copy_(a[-1])
            linear = (a[: layer.in_features] - a[layer.in_features : -1]).mT / 2
            R = getattr(other, "R", basis)
            other.weight.copy_(linear @ R.inverse())
    return twin


@pytest.mark.parametrize("name", NAMES)
def test_the_rule_reads_no_weight(name, monkeypatch):
    """It learns the same when what is written to the chip reads as NaN everywhere but on it."""
    found = []
    for poisoned in (False, True):
        torch.manual_seed(0)
        rule = learning_rule(name, seed=0, correction=0.1)
        net, x, loss = setting(rule.decorrelated)
        chip = NoisyNetwork(net, 0.05, seed=0)
        layers = [m for m in chip.modules() if isinstance(m, ChipLayer)]
        written = {m: (m.weight.detach().clone(), m.bias.detach().clone()) for m in layers}
        if poisoned:
            for p in chip.parameters():
                p.data.fill_(float("nan"))
        with monkeypatch.context() as patch:
            for kind in (ChipLinear, ChipDecorrelatedLinear):
                patch.setattr(kind, "_written", lambda self, kept=written: kept[self])
            chip.zero_grad()
            for _ in range(12):
                rule.backward(chip, x, loss)
            found.append(gradients(chip))
    assert torch.isfinite(found[1]).all()
    assert torch.equal(*found)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_differentiated(name):
    rule = learning_rule(name, seed=0)
    net, x, loss = setting(rule.decorrelated)
    chip = NoisyNetwork(net, 0.05, seed=0)
    with (
        mock.patch.object(torch.Tensor, "backward", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "grad", side_effect=AssertionError),
        mock.patch.object(torch, "enable_grad", side_effect=AssertionError),
    ):
        rule.backward(chip, x, loss)
        rule.backward(chip, x, loss)
    assert rule.backward_passes == 0
    assert rule.forward_passes == 2 * 2 * 128
    assert rule.wiring(chip) == "forward"


@pytest.mark.parametrize(
    ("make", "shape", "wired"),
    [
        (Residual, (6,), "forward"),
        (Gated, (6,), "forward"),
        (convolutions, (2, 8, 8), "forward"),
        (Normalised, (6,), "autograd"),
        (Attention, (5, 6), "autograd"),
    ],
)
def test_any_architecture_on_a_chip(make, shape, wired):
    torch.manual_seed(1)
    net = make().double()
    x = torch.randn(128, *shape, dtype=torch.float64)
    loss = squared_error(torch.randn(128, 3, dtype=torch.float64))
    loss(net(x)).mean().backward()
    truth = gradients(net)
    chip = NoisyNetwork(net, 0.02, seed=0)
    rule = learning_rule("np+feedback", seed=0)
    for _ in range(80):
        rule.backward(chip, x, loss)
    with mock.patch.object(wiring.Wiring, "__init__", side_effect=AssertionError("anew")):
        found = mean_gradient(chip, 20, lambda: rule.backward(chip, x, loss))
    assert rule.wiring(chip).partition(":")[0] == wired
    assert cosine_similarity(found, truth, dim=0) > 0.95


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_networks_that_others_learn(kind):
    make, inputs, loss = NETWORKS[kind]
    chip = NoisyNetwork(make(), 0.02, seed=0)
    rule = learning_rule("np+feedback", seed=0, correction=0.01)
    for _ in range(5):
        losses = rule.backward(chip, inputs, loss)
    assert losses.shape == (4,)
    assert torch.isfinite(gradients(chip)).all()


@pytest.mark.parametrize("first_on_chip", [True, False])
def test_what_is_off_the_chip_learns_as_well(first_on_chip):
    net, x, loss = setting(sizes=(6, 16, 3))
    layers = (net[0], net[-1])
    loss(net(x)).mean().backward()
    truth = gradients(net)
    net.zero_grad()
    put_on_chip(nn.ModuleList([layers[not first_on_chip]]), 0.02, seed=0)
    rule = learning_rule("np+feedback", seed=0)
    for _ in range(40):
        rule.backward(net, x, loss)
    found = mean_gradient(net, 20, lambda: rule.backward(net, x, loss))
    assert cosine_similarity(found, truth, dim=0) > 0.97


@pytest.mark.parametrize("off_chip", ["last", "first"])
def test_outputs_off_the_chip_are_left_without_noise(off_chip):
    """Their error is known without, and noise would only blur what they do."""
    net, x, loss = setting(sizes=(6, 16, 3))
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    put_on_chip(nn.ModuleList([layers[off_chip == "first"]]), 0.02, seed=0)
    rule = learning_rule("np+feedback", seed=0)
    rule.backward(net, x, loss)
    draw = rule.source.normal_like
    with mock.patch.object(rule.source, "normal_like", side_effect=draw) as drawn:
        rule.backward(net, x, loss)
    assert drawn.called == (off_chip == "first")  # a hidden layer off the chip needs its own


@pytest.mark.parametrize("kind", NETWORKS)
def test_own_noise_is_inferred(kind):
    """Once a layer is known, what its inputs do not explain is its noise: as large as that is."""
    make, inputs, loss = NETWORKS[kind]
    chip = NoisyNetwork(make(), 0.02, seed=0)
    rule = learning_rule("np+feedback", seed=0, correction=1e-9)
    seen = []

    def note(passes, maps, original=GuidedPasses.own_noise):
        seen.append(original(passes, maps))
        return seen[-1]

    with mock.patch.object(GuidedPasses, "own_noise", note):
        for _ in range(400):
            rule.backward(chip, inputs, loss)
    own = torch.stack(seen[-100:]).square().mean((0, 1, 2)).sqrt()
    torch.testing.assert_close(own, torch.full_like(own, 0.02 * 2**0.5), rtol=0.4, atol=0.0)


def test_the_correction_lessens_the_bias_of_a_wrong_guess():
    """With matrices that are wrong and cannot learn."""
    cosines = []
    for correction in (0.0, 1.0):
        torch.manual_seed(0)
        rule = learning_rule("np+feedback", seed=0, correction=correction)
        net, x, loss = setting(batch=32)
        loss(net(x)).mean().backward()
        truth = gradients(net)
        chip = NoisyNetwork(net, 0.02, seed=0)
        for _ in range(30):
            rule.backward(chip, x, loss)
        for fit in rule.feedback.fits[0].values():
            fit.guide.mul_(torch.randn_like(fit.guide) > 0)

        def wrong(rule=rule, chip=chip, x=x, loss=loss):
            rule.backward(chip, x, loss)

        with mock.patch.object(rule.feedback, "learn_activity"):
            found = mean_gradient(chip, 1200, wrong)
        cosines.append(float(cosine_similarity(found, truth, dim=0)))
    assert cosines[1] > max(cosines[0] + 0.02, 0.95), cosines


def test_a_loss_that_is_noisy_itself_is_asked_over_a_distance():
    """As that of an actor is whose critic is on a chip."""
    net, x, loss = setting(batch=256)
    loss(net(x)).mean().backward()
    truth = gradients(net)
    chip = NoisyNetwork(net, 0.05, seed=0)
    rule = learning_rule("np+feedback", seed=0)
    generator = torch.Generator().manual_seed(0)

    def noisy(y):
        clean = loss(y)
        return clean + 0.05 * torch.randn(clean.shape, generator=generator)

    for _ in range(30):
        rule.backward(chip, x, noisy)
    found = mean_gradient(chip, 20, lambda: rule.backward(chip, x, noisy))
    assert cosine_similarity(found, truth, dim=0) > 0.9


def test_direct_feedback_has_to_know_the_noise():
    rule = learning_rule("np+feedback", feedback="direct")
    net, x, loss = setting()
    with pytest.raises(NoiseInaccessibleError, match=r"direct feedback.*layerwise"):
        rule.backward(NoisyNetwork(net, 0.1), x, loss)


def test_saved_state_continues_exactly():
    rule, twin = (learning_rule("dnp+feedback", seed=0) for _ in range(2))
    net, x, loss = setting(True)
    chip = NoisyNetwork(net, GaussianNoise(0.05), seed=0)
    other = NoisyNetwork(chip.off_chip_copy(), GaussianNoise(0.05), seed=0)
    plain = learning_rule("anp", samples=1)
    for _ in range(7):
        rule.backward(chip, x, loss)
        plain.backward(other, x, loss)  # as many rows: in step
    twin.load_state_dict(pickle.loads(pickle.dumps(rule.state_dict())))
    chip.zero_grad()
    other.zero_grad()
    rule.backward(chip, x, loss)
    twin.backward(other, x, loss)
    torch.testing.assert_close(gradients(chip), gradients(other))


def regression(name, noise=0.06, steps=300):
    torch.manual_seed(0)
    rule = learning_rule(name, seed=0, **({"samples": 1} if name != "bp" else {}))
    net = mlp([8, 32, 32, 4], "tanh", decorrelated=rule.decorrelated)
    teacher = mlp([8, 32, 32, 4], "tanh")
    chip = NoisyNetwork(net, noise, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2 if name != "danp" else 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        x = torch.randn(64, 8)
        y = 3 * teacher(x).detach()
        optimizer.zero_grad()
        rule.backward(chip, x, squared_error(y))
        optimizer.step()
        rule.decorrelate(chip)
        schedule.step()
    x = torch.randn(4000, 8)
    with torch.no_grad():
        y = 3 * teacher(x)
        return float((chip(x) - y).square().mean() / y.var(0).mean())


def test_it_learns_what_backprop_through_the_chip_learns():
    oracle, blind = regression("bp"), regression("danp")
    for name in NAMES:
        error = regression(name)
        assert error < 1.25 * oracle
        assert error < 0.7 * blind


def test_ppo_learns_with_actor_and_critic_on_a_chip():
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = nprobot.PPO(
        "MlpPolicy", env, rule="np+feedback", seed=0, n_steps=64, batch_size=64, device="cpu"
    )
    for network in (model.actor, model.critic):
        put_on_chip(network, 0.06, seed=0)
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(256)
    after = model.policy.parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.rule.backward_passes == 0


@pytest.mark.parametrize("wired", ["forward", "autograd"])
def test_feedback_jumps_over_what_cannot_be_read(wired, caplog):
    """What comes before learns in the direction of its gradient; what is not known stays."""
    torch.manual_seed(0)
    net = mlp([6, 16, 16, 16, 3], "tanh").double()
    if wired == "autograd":
        net.insert(2, nn.LayerNorm(16, elementwise_affine=False))
    first, second, third, last = [m for m in net if isinstance(m, nn.Linear)]
    name = next(key for key, m in net.named_modules() if m is second)
    x = torch.randn(256, 6, dtype=torch.float64)
    loss = squared_error(torch.randn(256, 3, dtype=torch.float64))
    loss(net(x)).mean().backward()
    truth = [layer.weight.grad.flatten() for layer in (first, last)]
    chip = NoisyNetwork(net, 0.05, seed=0, unreadable=[name])
    rule = learning_rule("np+feedback", seed=0)
    with caplog.at_level("WARNING"):
        for _ in range(60):
            rule.backward(chip, x, loss)
    assert f"jumps over 'network.{name}'" in caplog.text
    assert rule.wiring(chip).partition(":")[0] == wired
    chip.zero_grad()
    for _ in range(20):
        rule.backward(chip, x, loss)
    assert second.weight.grad is None
    assert not third.weight.grad.any()
    assert third.bias.grad.any()
    assert cosine_similarity(first.weight.grad.flatten(), truth[0], dim=0) > 0.85
    assert cosine_similarity(last.weight.grad.flatten(), truth[1], dim=0) > 0.98


def test_what_a_chip_must_show():
    net, x, loss = setting()
    with pytest.raises(UnknownNameError, match="layer of the network '9'"):
        NoisyNetwork(net, 0.1, unreadable=["9"])
    chip = NoisyNetwork(net, 0.1, unreadable=["4"])
    with pytest.raises(RuleError, match=r"network\.4.*what the network says"):
        learning_rule("np+feedback").backward(chip, x, loss)
    chip = NoisyNetwork(setting(True)[0], 0.1, unreadable=["2"])
    with pytest.raises(NoiseInaccessibleError, match="'np\\+feedback' needs"):
        learning_rule("dnp+feedback").backward(chip, x, loss)
