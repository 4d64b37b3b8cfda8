"""Behaviour of the rules: networks they take, counters, state, errors, no autograd."""

from __future__ import annotations

import copy
import pickle
from unittest import mock

import pytest
import torch
from torch import nn

import nprobot
from nprobot.errors import (
    NoiseShapeError,
    NonFiniteLossError,
    PerSampleLossError,
    RuleError,
    UnsupportedLayerError,
)
from nprobot.policies import BiasHead, decorrelate, mlp

from .conftest import Branches, backprop_gradients, gradients, squared_error

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PERTURBATION_RULES = [name for name in nprobot.RULES if "bp" not in name]


class GaussianHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(3, 2)
        self.log_std = BiasHead(2)

    def forward(self, x):
        return self.mean(x), self.log_std(x)


class Shared(nn.Module):
    """The same layer twice: its gradient is the sum over both uses."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x):
        return torch.tanh(self.first(x["a"])) + self.second(x["b"])


def convolution():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)
    )


def tuple_loss(y):
    left, right = y
    return left.square().mean(-1) + right.abs().sum(-1)


def dict_loss(y):
    return tuple_loss((y["left"], y["right"]))


def gaussian_loss(y):
    mean, log_std = y
    return ((mean - 1) * torch.exp(-log_std)).square().sum(-1) + log_std.sum(-1)


def plain_loss(y):
    return (y - 0.3).square().mean(-1)


NETWORKS = {
    "mlp": (lambda: mlp([5, 6, 2]), torch.randn(4, 5), plain_loss),
    "nested, tuple": (lambda: Branches("tuple"), torch.randn(4, 5), tuple_loss),
    "nested, dict": (lambda: Branches("dict"), torch.randn(4, 5), dict_loss),
    "bias head": (GaussianHead, torch.randn(4, 3), gaussian_loss),
    "shared layer": (Shared, torch.randn(4, 4), plain_loss),
    "convolution": (convolution, torch.randn(4, 2, 5, 5), plain_loss),
    "no bias": (lambda: nn.Sequential(nn.Linear(5, 2, bias=False)), torch.randn(4, 5), plain_loss),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)),
        torch.randn(4, 2, 3),
        plain_loss,
    ),
    "dict inputs": (Dictionary, {"a": torch.randn(4, 3), "b": torch.randn(4, 2)}, plain_loss),
}


@pytest.mark.parametrize("decorrelated", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_np_finds_the_gradient_of_any_network(kind, decorrelated):
    make, inputs, loss = NETWORKS[kind]
    net = make()
    if decorrelated:
        decorrelate(net)
        for module in net.modules():
            if hasattr(module, "R"):
                module.R += 0.1 * torch.randn_like(module.R)
    net.double()
    inputs = (
        {k: v.double() for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.double()
    )
    rule = nprobot.learning_rule(
        "dnp" if decorrelated else "np", sigma=1e-4, samples=3000, noise="rademacher", seed=0
    )
    truth = backprop_gradients(net, inputs, loss)
    rule.backward(net, inputs, loss)
    cosine = torch.nn.functional.cosine_similarity(gradients(net), truth, dim=0)
    assert cosine > 0.97
    assert float(gradients(net).norm() / truth.norm()) == pytest.approx(1, abs=0.15)
    if decorrelated:
        before = [m.R.clone() for m in net.modules() if hasattr(m, "R")]
        rule.decorrelate(net)
        after = [m.R for m in net.modules() if hasattr(m, "R")]
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", PERTURBATION_RULES)
def test_perturbation_rules_never_differentiate(name):
    rule = nprobot.learning_rule(name, samples=2, seed=0)
    net = mlp([5, 6, 2], decorrelated=rule.decorrelated)
    seen = []

    def loss(y):
        seen.append((torch.is_grad_enabled(), y.requires_grad))
        return plain_loss(y)

    with (
        mock.patch.object(torch.Tensor, "backward", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "grad", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "backward", side_effect=AssertionError),
    ):
        losses = rule.backward(net, torch.randn(4, 5), loss)
        rule.decorrelate(net)
    assert seen
    assert all(state == (False, False) for state in seen)
    assert losses.shape == (4,)
    assert not losses.requires_grad
    assert rule.backward_passes == 0


@pytest.mark.parametrize("name", nprobot.RULES)
def test_gradients_accumulate_as_autograd_does(name):
    rule = nprobot.learning_rule(name, seed=0)
    net = mlp([5, 6, 2], decorrelated=rule.decorrelated)
    x = torch.randn(4, 5)
    noise = None if "bp" in name else [1e-3 * torch.randn(1, 4, n) for n in (6, 2)]
    rule.backward(net, x, plain_loss, noise=noise)
    once = gradients(net).clone()
    rule.backward(net, x, plain_loss, noise=noise)
    torch.testing.assert_close(gradients(net), 2 * once)


@pytest.mark.parametrize("name", nprobot.RULES)
@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_same_seed_same_steps_and_state_continues_the_stream(name, noise):
    x = torch.randn(8, 5)

    def steps(rule, net, count):
        for _ in range(count):
            rule.backward(net, x, plain_loss)
            rule.decorrelate(net)
        return gradients(net).clone()

    def make(seed):
        return nprobot.learning_rule(name, samples=2, noise=noise, seed=seed)

    start = mlp([5, 6, 2], decorrelated=make(0).decorrelated)
    first, second = copy.deepcopy(start), copy.deepcopy(start)
    a, b = make(7), make(7)
    assert torch.equal(steps(a, first, 3), steps(b, second, 3))
    state = pickle.loads(pickle.dumps(a.state_dict()))
    c = make(99)
    c.load_state_dict(state)
    assert torch.equal(steps(a, first, 2), steps(c, second, 2))
    assert c.forward_passes == a.forward_passes


def test_rules_can_be_pickled_for_sb3s_save():
    rule = nprobot.learning_rule("danp", samples=3, seed=5)
    net = mlp([5, 6, 2], decorrelated=True)
    x = torch.randn(4, 5)
    rule.backward(net, x, plain_loss)
    twin = pickle.loads(pickle.dumps(rule))
    net.zero_grad()
    rule.backward(net, x, plain_loss)
    expected = gradients(net).clone()
    net.zero_grad()
    twin.backward(net, x, plain_loss)
    assert torch.equal(gradients(net), expected)


@pytest.mark.parametrize(
    ("name", "passes"), [("np", 3), ("danp", 3), ("inp", 1 + 2 * 3), ("bp", 1)]
)
def test_forward_passes_are_counted(name, passes):
    rule = nprobot.learning_rule(name, samples=2, seed=0)
    net = mlp([5, 6, 6, 2], decorrelated=rule.decorrelated)
    rule.backward(net, torch.randn(4, 5), plain_loss)
    assert rule.forward_passes == 4 * passes
    assert rule.backward_passes == (4 if name == "bp" else 0)


def test_first_layer_is_computed_once_for_all_draws():
    net = mlp([5, 6, 2])
    rows = []
    original = torch.nn.functional.linear

    def linear(x, weight, bias=None):
        rows.append((tuple(weight.shape), x.shape[0]))
        return original(x, weight, bias)

    with mock.patch("nprobot.nodes.F.linear", linear):
        nprobot.learning_rule("anp", samples=16, seed=0).backward(
            net, torch.randn(4, 5), plain_loss
        )
    assert rows == [((6, 5), 4), ((2, 6), 4), ((2, 6), 64)]


def test_frozen_layers_are_not_perturbed():
    net = mlp([5, 6, 2])
    net[0].requires_grad_(False)
    net[2].bias.requires_grad_(False)
    rule = nprobot.learning_rule("np", seed=0)
    rule.backward(net, torch.randn(4, 5), plain_loss, noise=[torch.randn(1, 4, 2)])
    assert net[0].weight.grad is None
    assert net[2].bias.grad is None
    assert net[2].weight.grad is not None


def test_a_forward_that_somebody_replaced_is_put_back():
    net = mlp([5, 6, 2])
    net[0].forward = lambda x: torch.zeros(len(x), 6)
    own = net[0].forward
    nprobot.learning_rule("anp", seed=0).backward(net, torch.randn(4, 5), plain_loss)
    assert net[0].forward is own
    assert "forward" not in net[2].__dict__


@pytest.mark.parametrize("name", PERTURBATION_RULES)
def test_float32_and_float64_agree(name):
    rule = nprobot.learning_rule(name, sigma=1e-3, samples=2, seed=0)
    net = mlp([5, 8, 3], decorrelated=rule.decorrelated)
    x = torch.randn(16, 5)
    noise = [1e-3 * torch.randn(2, 16, n) for n in (8, 3)]
    rule.backward(net, x, plain_loss, noise=noise)
    single = gradients(net).double()
    double = copy.deepcopy(net).double()
    double.zero_grad()
    rule.backward(double, x.double(), plain_loss, noise=[n.double() for n in noise])
    error = (single - gradients(double)).norm() / gradients(double).norm()
    assert error < 5e-3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", nprobot.RULES)
def test_devices_agree_and_draw_their_own_noise(name, device):
    rule = nprobot.learning_rule(name, samples=2, seed=0)
    net = mlp([5, 8, 3], decorrelated=rule.decorrelated).double()
    x = torch.randn(16, 5).double()
    noise = None if "bp" in name else [1e-3 * torch.randn(2, 16, n).double() for n in (8, 3)]
    rule.backward(net, x, plain_loss, noise=noise)
    expected = gradients(net).clone()
    net.zero_grad()
    net.to(device)
    there = None if noise is None else [n.to(device) for n in noise]
    rule.backward(net, x.to(device), plain_loss, noise=there)
    torch.testing.assert_close(gradients(net).cpu(), expected, rtol=1e-5, atol=1e-7)
    rule.backward(net, x.to(device), plain_loss)
    rule.decorrelate(net)
    assert all(p.device.type == device for p in net.parameters())


def step(name="anp", net=None, x=None, loss=plain_loss, **kwargs):
    net = mlp([5, 6, 2]) if net is None else net
    x = torch.randn(4, 5) if x is None else x
    return nprobot.learning_rule(name, seed=0).backward(net, x, loss, **kwargs)


@pytest.mark.parametrize("name", nprobot.RULES)
@pytest.mark.parametrize(
    "loss", [lambda y: y.square().mean(), lambda y: y.square(), lambda y: 1.0, lambda y: y[..., :1]]
)
def test_losses_that_are_not_per_sample_are_refused_with_the_reason(name, loss):
    rule = nprobot.learning_rule(name, seed=0)
    net = mlp([5, 6, 2], decorrelated=rule.decorrelated)
    with pytest.raises(PerSampleLossError, match=r"one number per sample.*drop the mean"):
        rule.backward(net, torch.randn(4, 5), loss)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", nprobot.RULES)
def test_non_finite_losses_are_refused(name, bad):
    rule = nprobot.learning_rule(name, seed=0)
    net = mlp([5, 6, 2], decorrelated=rule.decorrelated)
    broken = torch.tensor([1.0, 1.0, bad, 1.0])
    with pytest.raises(NonFiniteLossError, match=r"sample 2 is (nan|inf).*1 of 4"):
        rule.backward(net, torch.randn(4, 5), lambda y: plain_loss(y) * broken)
    assert all(p.grad is None for p in net.parameters())


def test_losses_whose_sum_overflows_are_fine():
    losses = step(loss=lambda y: y.square().mean(-1) * 0 + 3e38)
    assert (losses > 1e38).all()


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ([torch.zeros(1, 4, 6)], "each of the 2 perturbed layers"),
        ([torch.zeros(1, 4, 6), torch.zeros(1, 4, 3)], r"layer '2'.*\(1, 4, 2\), got \(1, 4, 3\)"),
        ([torch.zeros(2, 4, 6), torch.zeros(1, 4, 2)], r"got \(1, 4, 2\)"),
        ([torch.zeros(4, 6), torch.zeros(4, 2)], r"\(K, B, units\)"),
    ],
)
def test_wrong_noise_shapes_are_refused(noise, message):
    with pytest.raises(NoiseShapeError, match=message):
        step(noise=noise)


def test_backprop_takes_no_noise():
    with pytest.raises(RuleError, match="no noise"):
        step("bp", noise=[torch.zeros(1, 4, 6)])


def test_unsupported_layers_are_named():
    net = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    with pytest.raises(UnsupportedLayerError, match=r"'1' \(LayerNorm\).*freeze"):
        step(net=net)
    net[1].requires_grad_(False)
    assert step(net=net).shape == (4,)
    with pytest.raises(UnsupportedLayerError, match="groups=2"):
        step(net=nn.Conv2d(2, 2, 1, groups=2), x=torch.randn(4, 2, 3, 3))


def test_networks_without_nodes_are_refused():
    with pytest.raises(RuleError, match="nothing to perturb"):
        step(net=nn.Sequential(nn.Tanh()))


def test_layers_that_change_places_between_passes_are_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x):
            return self.a(self.b(x)) if len(x) == 4 else self.b(self.a(x))

    with pytest.raises(RuleError, match="order of the layers"):
        nprobot.learning_rule("np", samples=2).backward(Fickle(), torch.randn(4, 5), plain_loss)


@pytest.mark.parametrize(
    "settings",
    [
        {"sigma": 0.0},
        {"sigma": -1e-3},
        {"sigma": float("nan")},
        {"sigma": float("inf")},
        {"samples": 0},
        {"samples": 1.5},
        {"decorrelation_lr": -1.0},
        {"whitening": 2.0},
        {"decorrelation_interval": 0},
        {"noise": "gauss"},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(RuleError, match=next(iter(settings))):
        nprobot.learning_rule("danp", **settings)


def test_unknown_rules_are_refused_with_the_nearest():
    with pytest.raises(RuleError, match=r"'damp'; did you mean 'danp'\?.*Known: np"):
        nprobot.learning_rule("damp")


def test_decorrelated_rules_need_decorrelated_layers_and_a_step_before():
    rule = nprobot.learning_rule("danp", seed=0)
    with pytest.raises(RuleError, match="decorrelated=True"):
        rule.decorrelate(mlp([5, 6, 2]))
    with pytest.raises(RuleError, match="backward"):
        rule.decorrelate(mlp([5, 6, 2], decorrelated=True))


def test_plain_rules_leave_the_network_alone_when_asked_to_decorrelate():
    net = mlp([5, 6, 2], decorrelated=True)
    rule = nprobot.learning_rule("anp", seed=0)
    rule.backward(net, torch.randn(4, 5), plain_loss)
    rule.decorrelate(net)
    assert torch.equal(net[0].R, torch.eye(5))


def test_a_network_learns_by_danp():
    torch.manual_seed(3)
    net = mlp([5, 32, 2], decorrelated=True)
    rule = nprobot.learning_rule("danp", samples=4, noise="rademacher", seed=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x = torch.randn(512, 5)
    y = torch.sin(x[:, :2] * 2)
    for _ in range(300):
        batch = torch.randint(512, (64,))
        optimizer.zero_grad()
        rule.backward(net, x[batch], squared_error(y[batch]))
        optimizer.step()
        rule.decorrelate(net)
    with torch.no_grad():
        assert squared_error(y)(net(x)).mean() < 0.15 * y.var()


@pytest.mark.parametrize("name", ["np", "inp", "anp"])
def test_activation_functions_that_work_in_place_change_nothing(name):
    """They overwrite the pre-activation that the rules compare with."""
    results = []
    for inplace in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(inplace=inplace), nn.Linear(16, 2)).double()
        rule = nprobot.learning_rule(name, sigma=1e-3, samples=3, seed=0)
        x = torch.randn(8, 5, dtype=torch.float64)
        rule.backward(net, x, lambda y: y.square().sum(-1))
        results.append(gradients(net))
    assert torch.equal(*results)
