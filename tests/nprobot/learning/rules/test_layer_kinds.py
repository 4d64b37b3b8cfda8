"""Every kind of layer, in networks of every kind: exact gradients, guesses that reach through."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import cosine_similarity

import nprobot
from nprobot.errors import RuleError, UnsupportedLayerError
from nprobot.learning.activity import Activity
from nprobot.policies import ParameterUse, decorrelate, fold

from ..rule_networks import plain_loss, squared_error
from .architectures import ARCHITECTURES, Bare, Frames, Tied, Transformer, with_gains_that_differ


def setting(kind, batch=3):
    make, shape = ARCHITECTURES[kind]
    torch.manual_seed(0)
    net = with_gains_that_differ(make()).double()
    x = torch.randn(batch, *shape, dtype=torch.float64)
    return net, x, squared_error(torch.randn(batch, 3, dtype=torch.float64))


def by_name(net):
    return {name: p.grad.detach().clone() for name, p in net.named_parameters()}


def backprop(net, x, loss):
    net.zero_grad()
    loss(net(x)).mean().backward()
    found = by_name(net)
    net.zero_grad()
    return found


def assert_same_direction(found, truth, least):
    """Layer by layer; a gradient that is nothing, as softmax makes it of a key's bias, stays so."""
    largest = max(float(g.norm()) for g in truth.values())
    for name, g in truth.items():
        if g.norm() > 1e-6 * largest:
            cosine = float(cosine_similarity(found[name].flatten(), g.flatten(), dim=0))
            assert cosine > least, (name, cosine)
        else:
            assert found[name].norm() < 1e-3 * largest, name


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_passes_compute_what_torch_computes(kind):
    net, x, _ = setting(kind)
    expected = net(x)
    with torch.no_grad():
        activity = Activity(net, x)
        torch.testing.assert_close(activity.outputs, expected)
        noise = torch.zeros(2, len(x), activity.size, dtype=x.dtype)
        outputs = activity.perturbed(noise, start=1)
    torch.testing.assert_close(outputs, expected.expand(2, -1, -1))
    assert all("forward" not in vars(module) for module in net.modules())
    torch.testing.assert_close(net.eval()(x), expected)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_as_many_directions_as_nodes_give_the_exact_gradient(kind):
    net, x, loss = setting(kind)
    truth = backprop(net, x, loss)
    with torch.no_grad():
        nodes = Activity(net, x).size
    rule = nprobot.learning_rule("np", sigma=1e-6, samples=nodes, noise="orthogonal", seed=0)
    rule.backward(net, x, loss)
    found = by_name(net)
    scale = max(float(g.abs().max()) for g in truth.values())
    for name, g in truth.items():
        torch.testing.assert_close(found[name], g, rtol=1e-3, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_anp_is_the_change_of_the_loss_times_that_of_the_activity(kind):
    """Against node errors by hand, and gradients of each layer alone by autograd."""
    net, x, loss = setting(kind)
    rule = nprobot.learning_rule("anp", sigma=1e-4, samples=2, seed=0)
    with torch.no_grad():
        activity = Activity(net, x)
        noise = rule.source.draw((2, len(x), activity.size), activity.like, 1e-4)
        seen = []
        change = loss(activity.perturbed(noise, record=seen)) - loss(activity.outputs)
    parts = [noise[..., call.nodes].reshape(2, len(x), *call.units) for call in activity.calls]
    rule.backward(net, x, loss, perturbations=parts)
    found = by_name(net)
    net.zero_grad()
    moved = [
        s.pre_activation.reshape(2, len(x), -1) - c.pre_activation.reshape(len(x), -1)
        for s, c in zip(seen, activity.calls, strict=True)
    ]
    square = torch.cat(moved, -1).square().sum(-1)
    weight = activity.size * change / square / (2 * len(x))
    for call, own in zip(Activity(net, x).calls, moved, strict=True):
        error = (weight.unsqueeze(-1) * own).sum(0)
        a = call.layer.pre_activation(call.raw_inputs.detach())
        a.backward(error.reshape(a.shape))
    assert_same_direction(found, by_name(net), 1 - 1e-9)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_traces_of_single_samples_add_up(kind):
    net, x, _ = setting(kind)
    with torch.no_grad():
        activity = Activity(net, x)
        error = torch.randn(len(x), activity.size, dtype=x.dtype)
        activity.accumulate(error)
        total = {p: torch.zeros_like(p) for p in net.parameters()}
        for call in activity.calls:
            own = error[:, call.nodes].reshape(call.pre_activation.shape)
            for p, part in call.layer.outer(own, call.inputs):
                assert len(part) == len(own)
                total[p] += part.sum(0)
    for p, g in total.items():
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_layer_is_the_map_of_rows_that_it_says(kind):
    """A fit of its rows explains all, and pulls errors back as the weights would."""
    net, x, _ = setting(kind, batch=40)
    with torch.no_grad():
        activity = Activity(net, x)
    for call in activity.calls:
        layer, fed = call.layer, call.raw_inputs
        if not layer.takes_inputs:
            continue
        inputs = fed + torch.randn_like(fed)
        inputs.requires_grad_()
        a = layer.pre_activation(inputs)
        with torch.no_grad():
            rows = layer.input_rows(inputs - fed)
            nodes = layer.node_rows(a - layer.pre_activation(fed))
            matrix = torch.linalg.lstsq(rows, nodes, driver="gelsd").solution
            torch.testing.assert_close(rows @ matrix, nodes)
            error = torch.randn_like(a)
            torch.testing.assert_close(
                layer.from_node_rows(layer.node_rows(a), a.shape), a.detach()
            )
        (truth,) = torch.autograd.grad(a, inputs, error)
        pulled = layer.pull_back(error, matrix, inputs.shape)
        padding = getattr(layer.module, "padding_mode", "zeros")
        if padding == "zeros":
            torch.testing.assert_close(pulled, truth, msg=layer.name)
        else:
            assert cosine_similarity(pulled.flatten(), truth.flatten(), dim=0) > 0.7


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_feedback_reaches_through_and_stays_unbiased_whatever_it_has_learned(kind):
    net, x, loss = setting(kind, batch=32)
    rule = nprobot.learning_rule("np+feedback", sigma=1e-4, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(25):
        optimizer.zero_grad()
        rule.backward(net, x, loss)
        optimizer.step()
    assert nprobot.alignment(rule, net, x, loss).cosine > 0.9
    # As many directions as nodes: the mean over all draws.
    few, loss = x[:2], squared_error(torch.ones(2, 3, dtype=x.dtype))
    with torch.no_grad():
        nodes = Activity(net, few).size
    whole = nprobot.learning_rule(
        "np+feedback", sigma=1e-6, samples=nodes, noise="orthogonal", feedback_lr=0.0, seed=0
    )
    whole.backward(net, few, loss)
    for fit in whole.feedback.fits[0].values():
        fit.guide.normal_()
        fit.steps, fit.interval = 0, 1000
    truth = backprop(net, few, loss)
    whole.backward(net, few, loss)
    assert_same_direction(by_name(net), truth, 0.999)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_no_weight_has_a_part_in_what_lies_between_layers(kind):
    """The guess is the same when there are no weights left while it is made."""
    net, x, loss = setting(kind)
    rule = nprobot.learning_rule("np+feedback", seed=0)
    rule.backward(net, x, loss)
    guess = rule.feedback.guess

    def compare(*args):
        expected = guess(*args)
        weights = [p.detach().clone() for p in net.parameters()]
        for p in net.parameters():
            p.data.fill_(float("nan"))
        assert torch.equal(guess(*args), expected)
        assert expected.any()
        for p, weight in zip(net.parameters(), weights, strict=True):
            p.data.copy_(weight)
        return expected

    with mock.patch.object(rule.feedback, "guess", compare):
        rule.backward(net, x, loss)


def test_a_gru_learns_to_remember():
    torch.manual_seed(0)
    make, _ = ARCHITECTURES["GRU"]
    net = make()
    rule = nprobot.learning_rule("np+feedback", seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        x = torch.randn(64, 4, 3)
        loss = squared_error(x[:, 0])
        optimizer.zero_grad()
        losses.append(float(rule.backward(net, x, loss).mean()))
        optimizer.step()
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0]
    assert rule.wiring(net).startswith("autograd: units of layer 'memory.l0'")


def test_weights_may_be_frozen_at_any_time():
    net, x, loss = setting("transformer")
    rule = nprobot.learning_rule("np", samples=2, seed=0)
    rule.backward(net, x, loss)
    net.zero_grad()
    net.block.requires_grad_(False)
    net.position.requires_grad_(False)
    rule.backward(net, x, loss)
    got = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
    assert got == {"embed", "norm", "head"}
    net.requires_grad_(False)
    net.block.self_attn.in_proj_bias.requires_grad_(True)
    net.zero_grad()
    rule.backward(net, x, loss)
    got = [name for name, p in net.named_parameters() if p.grad is not None]
    assert got == ["block.self_attn.in_proj_bias"]


def test_networks_stay_what_they_are():
    """State, copies and torch's own fast paths, before and after a step."""
    net, x, loss = setting("transformer")
    keys, twin = list(net.state_dict()), copy.deepcopy(net)
    nprobot.learning_rule("danp", seed=0).backward(net, x, loss)
    assert list(net.state_dict()) == keys
    net.load_state_dict(twin.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), twin.eval()(x))
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    "kind", ["residual convolutions", "one and three dimensions", "transformer"]
)
def test_decorrelation_of_what_has_inputs_to_decorrelate(kind):
    """R of every linear map and convolution, of groups apart; attention keeps its own weights."""
    net, x, loss = setting(kind, batch=16)
    before = net(x)
    decorrelate(net).double()
    torch.testing.assert_close(net(x), before)
    rule = nprobot.learning_rule("dnp", sigma=1e-6, decorrelation_lr=0.05, keep_function=True)
    layers = {name: m for name, m in net.named_modules() if hasattr(m, "R")}
    assert len(layers) == {"residual convolutions": 5, "transformer": 4}.get(kind, 3)
    rule.backward(net, x, loss)
    first = rule.decorrelation_loss(net)
    for _ in range(60):
        rule.decorrelate(net)
        rule.backward(net, x, loss)
    assert rule.decorrelation_loss(net) < 0.7 * first
    torch.testing.assert_close(net(x), before)
    torch.testing.assert_close(fold(net)(x), before)
    plain = setting(kind, batch=16)[0]
    plain.load_state_dict(nprobot.policies.layers.fit_state(plain, net.state_dict()))
    torch.testing.assert_close(plain(x), before)
    truth = backprop(net, x[:2], plain_loss)
    with torch.no_grad():
        nodes = Activity(net, x[:2]).size
    exact = nprobot.learning_rule("dnp", sigma=1e-6, samples=nodes, noise="orthogonal", seed=0)
    exact.backward(net, x[:2], plain_loss)
    assert_same_direction(by_name(net), truth, 0.9999)


class Uses(nn.Module):
    """A weight that is used without running its layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(6, 4), nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(self.mix(self.embed((x > 0).long()).mean(1)), self.embed.weight)


class TimeMajor(nn.Module):
    def __init__(self):
        super().__init__()
        self.see = nn.Linear(3, 2)

    def forward(self, x):
        return self.see(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (x.shape[1], -1)).mean(0)


class BatchThird(nn.Module):
    def __init__(self):
        super().__init__()
        self.see = nn.Linear(3, 2)

    def forward(self, x):
        return self.see(x.permute(1, 2, 0, 3)).mean((0, 1))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.Bilinear(2, 2, 2)), r"'1' \(Bilinear\).*ParameterUse"),
        (nn.TransformerEncoderLayer(4, 2, 8), r"'self_attn'.*draws at random.*dropout=0.1 here"),
        (nn.GRU(3, 4, 2, dropout=0.5), r"\(GRU\).*dropout=0.5"),
        (nn.LSTM(3, 4, proj_size=2), "proj_size=0, and a Linear"),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), "add_bias_kv=False"),
        (nn.BatchNorm2d(3), "GroupNorm or LayerNorm instead, or eval"),
        (nn.BatchNorm2d(3, track_running_stats=False).eval(), "GroupNorm or LayerNorm"),
        (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), "track_running_stats=False"),
        (nn.Embedding(3, 4, max_norm=1.0), "max_norm=None"),
        (nn.Embedding(3, 4, sparse=True), "sparse=False"),
        (ParameterUse(torch.atan2, nn.Parameter(torch.ones(3))), "known are add, sub, mul"),
        (nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 1)), "computes its weight"),
    ],
)
def test_what_cannot_work_is_refused_by_name_before_anything_runs(net, message):
    with pytest.raises(UnsupportedLayerError, match=message):
        nprobot.learning_rule("np").backward(net, torch.full((4, 3), float("nan")), plain_loss)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (Uses(), (4, 3), "uses the parameters embed.weight without running"),
        (TimeMajor(), (4, 5, 3), "frames of one sample side by side"),
        (nn.GRU(3, 2), (5, 3), "a batch of sequences"),
        (BatchThird(), (4, 5, 2, 3), "axis of the 4 samples is not the first"),
    ],
)
def test_what_does_not_keep_samples_apart_is_refused_in_the_first_step(net, shape, message):
    with pytest.raises(RuleError, match=message):
        nprobot.learning_rule("np", seed=0).backward(net, torch.randn(shape), plain_loss)


@pytest.mark.parametrize("batch", [2, 4, 5, 8])
@pytest.mark.parametrize("make", [lambda: Transformer(batch_first=False, size=4), Frames, Tied])
def test_the_batch_is_found_whatever_its_size(make, batch):
    """As large as the sequence is long, too, where shapes do not tell one from the other."""
    shape = {Frames: (4, 1, 3, 3), Tied: (4,)}.get(make, (4, 3))
    net = make().double()
    x = torch.randn(batch, *shape, dtype=torch.float64)
    rule = nprobot.learning_rule("np", sigma=1e-6, samples=2 * batch, noise="gaussian", seed=0)
    rule.backward(net, x, plain_loss)
    estimate = by_name(net)
    with torch.no_grad():
        activity = Activity(net, x)
        again = nprobot.learning_rule("np", noise="gaussian", seed=0)
        noise = again.source.draw((2 * batch, batch, activity.size), activity.like, 1e-6)
    truth = {name: torch.zeros_like(g) for name, g in estimate.items()}
    for b in range(batch):  # each sample by itself, with its own noise
        net.zero_grad()
        alone = [
            noise[:, b : b + 1, call.nodes].reshape(2 * batch, 1, *call.units)
            for call in activity.calls
        ]
        again.sigma, again.samples = 1e-6, 2 * batch
        again.backward(net, x[b : b + 1], plain_loss, perturbations=alone)
        for name, g in by_name(net).items():
            truth[name] += g / batch
    for name, g in truth.items():
        torch.testing.assert_close(estimate[name], g, rtol=1e-3, atol=1e-5)


def test_a_bare_parameter_belongs_to_its_module_too():
    net = Bare()
    assert {"position", "add_position.parameter", "out.parameter"} <= set(net.state_dict())
    assert len(list(net.parameters())) == 5
    twin = copy.deepcopy(net)
    assert twin.scale is twin.times_scale.parameter
    net.extra = nn.Parameter(torch.ones(3))
    with pytest.raises(UnsupportedLayerError, match=r"\(extra\).*torch.mul, self.extra"):
        nprobot.learning_rule("np").backward(net, torch.randn(2, 5, 3), plain_loss)
