"""Learning on a chip whose noise is hidden: the published equations, offsets, sign units, PPO."""

from __future__ import annotations

import copy
import pickle
import re
from unittest import mock

import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from torch.nn.functional import cosine_similarity

import nprobot
from nprobot import NoisyNetwork, learning_rule
from nprobot.errors import ConfigError, NoiseInaccessibleError, RuleError
from nprobot.policies import DecorrelatedLinear, decorrelate, mlp
from nprobot.policies.chip.crossbar import on_chip, put_on_chip
from nprobot.policies.chip.nonidealities import GaussianNoise, Offset, Site, WeightMismatch

from .rule_networks import NETWORKS, Branches, gradients, squared_error

BLIND = ["anp", "danp"]
SEEING = ["np", "inp", "dnp", "dinp"]
X = torch.randn(16, 5, generator=torch.Generator().manual_seed(1)).double()
Y = torch.randn(16, 2, generator=torch.Generator().manual_seed(2)).double()


def network(rule, hidden=6, activation="tanh"):
    torch.manual_seed(0)
    net = mlp([5, hidden, 2], activation, decorrelated=rule.decorrelated).double()
    for layer in net.modules():
        if isinstance(layer, DecorrelatedLinear):
            layer.R += 0.1 * torch.randn_like(layer.R)
    return net


def chip(rule, models=0.1, **kwargs):
    return NoisyNetwork(network(rule), models, seed=0, **kwargs)


@pytest.mark.parametrize("name", BLIND)
def test_two_passes_are_the_published_equations(name):
    """Against the equations written out for one hidden layer, the noise known to the test only."""
    rule = learning_rule(name, samples=1, seed=0)
    net = network(rule)
    noise = {6: torch.randn(32, 6).double(), 2: torch.randn(32, 2).double()}
    noisy = NoisyNetwork(copy.deepcopy(net), 0.1, seed=0)
    with mock.patch.object(Site, "fresh", lambda self, like: noise[like.shape[1]]):
        losses = rule.backward(noisy, X, squared_error(Y))

    R = [
        layer.R if name == "danp" else torch.eye(n)
        for layer, n in zip(net[::2], (5, 6), strict=True)
    ]
    with torch.no_grad():
        x1 = torch.cat([X, X]) @ R[0].double().T
        a1 = x1 @ net[0].weight.T + net[0].bias + 0.1 * noise[6]
        x2 = torch.tanh(a1) @ R[1].double().T
        a2 = x2 @ net[2].weight.T + net[2].bias + 0.1 * noise[2]
        loss = ((a2 - torch.cat([Y, Y])) ** 2).mean(-1)
        a = torch.cat([a1, a2], -1)
        delta_a, delta_loss = a[:16] - a[16:], loss[:16] - loss[16:]
        error = 8 * delta_loss[:, None] * delta_a / (delta_a**2).sum(-1, keepdim=True) / 16
    torch.testing.assert_close(losses, loss[:16])
    torch.testing.assert_close(
        net[0].weight.new_tensor(noisy.network[0].weight.grad.numpy()), error[:, :6].T @ x1[:16]
    )
    torch.testing.assert_close(noisy.network[0].bias.grad, error[:, :6].sum(0))
    torch.testing.assert_close(noisy.network[2].weight.grad, error[:, 6:].T @ x2[:16])
    torch.testing.assert_close(noisy.network[2].bias.grad, error[:, 6:].sum(0))

    before = [layer.R.clone() for layer in noisy.modules() if hasattr(layer, "R")]
    rule.decorrelate(noisy)
    if name == "danp":  # R learns from the inputs of pass 1
        correlation = x1[:16].T @ x1[:16] / 16
        correlation -= correlation.diagonal().diag()
        torch.testing.assert_close(
            noisy.network[0].R, before[0] - rule.decorrelation_lr * correlation @ before[0]
        )


@pytest.mark.parametrize("name", BLIND)
def test_two_noisy_passes_point_where_a_clean_and_a_noisy_one_do(name):
    rule = learning_rule(name, sigma=1e-3, samples=2000, seed=0)
    loss = squared_error(Y)
    clean = network(rule)
    rule.backward(clean, X, loss)
    noisy = chip(rule, 1e-3)
    rule.backward(noisy, X, loss)
    assert cosine_similarity(gradients(noisy), gradients(clean), dim=0) > 0.97
    assert float(gradients(noisy).norm() / gradients(clean).norm()) == pytest.approx(1, abs=0.1)


def test_more_passes_come_closer():
    """K comparisons of K + 1 noisy passes are as good as K of a clean pass with noisy ones."""
    loss = squared_error(Y)
    truth = network(learning_rule("anp"))
    loss(truth(X)).mean().backward()

    def cosine(samples, hidden):
        found = []
        for seed in range(20):
            rule = learning_rule("anp", sigma=1e-3, samples=samples, seed=seed)
            net = network(rule)
            net = NoisyNetwork(net, 1e-3, seed=seed) if hidden else net
            rule.backward(net, X, loss)
            found.append(float(cosine_similarity(gradients(net), gradients(truth), dim=0)))
        return sum(found) / len(found)

    assert cosine(1, True) == pytest.approx(cosine(1, False), abs=0.08)
    assert cosine(16, True) == pytest.approx(cosine(16, False), abs=0.05)
    assert cosine(16, True) > cosine(1, True) + 0.2


@pytest.mark.parametrize("value", [0.3, -50.0])
def test_a_constant_offset_of_the_noise_cancels(value):
    """The chip with an offset learns what a chip without it learns whose biases are as much higher.

    Exactly: to a rule that looks at differences the offset is a bias, and no noise.
    """
    rule = learning_rule("anp", samples=3, seed=0)
    with_offset, without = network(rule), network(rule)
    for layer in (without[0], without[2]):
        layer.bias.data += value
    found = []
    for net, offset in ((with_offset, value), (without, 0.0)):
        noisy = NoisyNetwork(net, [GaussianNoise(0.1), Offset(offset)], seed=4)
        rule.backward(noisy, X, squared_error(Y))
        found.append(gradients(noisy))
    torch.testing.assert_close(*found)


def test_what_a_device_makes_of_the_weights_is_learned_around():
    """The gradient is that of the weights on the device, which nobody has been told."""
    rule = learning_rule("anp", sigma=1e-3, samples=2000, seed=0)
    noisy = chip(rule, [WeightMismatch(1.0), GaussianNoise(1e-3)], device_seed=1)
    silent = chip(rule, WeightMismatch(1.0), device_seed=1).network
    on_the_device, as_written = network(rule), network(rule)
    with torch.no_grad():
        for i, inputs in ((0, 5), (2, 6)):
            weight = silent[i](torch.eye(inputs).double()) - silent[i].bias
            on_the_device[i].weight.copy_(weight.T)
    for net in (noisy, on_the_device, as_written):
        rule.backward(net, X, squared_error(Y))
    found, own, written = map(gradients, (noisy, on_the_device, as_written))
    assert cosine_similarity(found, own, dim=0) > 0.97
    assert cosine_similarity(found, written, dim=0) < 0.9


@pytest.mark.parametrize("kind", NETWORKS)
def test_any_network_can_be_on_a_chip(kind):
    make, inputs, loss = NETWORKS[kind]
    net = make()
    clean = copy.deepcopy(net)
    rule = learning_rule("anp", sigma=1e-3, samples=400, seed=0)
    rule.backward(clean, inputs, loss)
    noisy = NoisyNetwork(net, 1e-3, seed=0)
    losses = rule.backward(noisy, inputs, loss)
    assert losses.shape == (4,)
    assert cosine_similarity(gradients(noisy), gradients(clean), dim=0) > 0.9


def test_only_part_of_a_network_on_a_chip():
    """Digital layers behind the chip learn from the noise that reaches them."""
    net = Branches("tuple").double()
    put_on_chip(net.trunk, 0.1, seed=0)
    rule = learning_rule("anp", samples=4)
    rule.backward(net, X, lambda y: y[0].square().mean(-1) + y[1].square().mean(-1))
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    with pytest.raises(NoiseInaccessibleError):
        learning_rule("np").backward(net, X, lambda y: y[0].square().mean(-1))


@pytest.mark.parametrize("name", [*SEEING, "inp+feedback", "dinp+feedback"])
def test_rules_that_have_to_know_the_noise_refuse(name):
    rule = learning_rule(name, seed=0)
    noisy = chip(rule)
    with pytest.raises(
        NoiseInaccessibleError, match=f"'{re.escape(name)}'.*cannot be read.*'danp'"
    ):
        rule.backward(noisy, X, squared_error(Y))
    assert all(p.grad is None for p in noisy.parameters())


def test_nobody_can_put_other_noise_in_the_place_of_the_chips():
    noise = [torch.randn(1, 16, n) for n in (6, 2)]
    with pytest.raises(NoiseInaccessibleError, match="its own"):
        learning_rule("anp").backward(
            chip(learning_rule("anp")), X, squared_error(Y), perturbations=noise
        )


@pytest.mark.parametrize("name", ["bp", "dbp"])
def test_backpropagation_goes_through_the_weights_as_written(name):
    rule = learning_rule(name)
    noisy, clean = chip(rule, [WeightMismatch(0.3), 1e-4]), network(rule)
    loss = squared_error(Y)
    rule.backward(noisy, X, loss)
    rule.backward(clean, X, loss)
    cosine = cosine_similarity(gradients(noisy), gradients(clean), dim=0)
    assert 0.5 < cosine < 0.9999


@pytest.mark.parametrize("name", BLIND)
def test_nothing_is_differentiated(name):
    rule = learning_rule(name, seed=0)
    noisy = chip(rule)
    with (
        mock.patch.object(torch.Tensor, "backward", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "grad", side_effect=AssertionError),
    ):
        rule.backward(noisy, X, squared_error(Y))
    assert rule.backward_passes == 0


@pytest.mark.parametrize(("samples", "passes"), [(1, 2), (3, 4)])
def test_passes_are_counted(samples, passes):
    rule = learning_rule("anp", samples=samples)
    rule.backward(chip(rule), X, squared_error(Y))
    assert rule.forward_passes == passes * 16


def test_a_loss_of_the_whole_batch_is_refused():
    with pytest.raises(RuleError):
        learning_rule("anp").backward(chip(learning_rule("anp")), X, lambda y: y.mean())


def mean_rule(samples=1, rate=0.1):
    return learning_rule(
        "anp", samples=samples, seed=0, reference="running-mean", reference_rate=rate
    )


def test_the_running_mean_teaches_nothing_at_first_and_then_the_same_direction():
    rule = mean_rule(rate=0.05)
    noisy, loss = chip(rule), squared_error(Y)
    rule.backward(noisy, X, loss)
    assert not gradients(noisy).any()
    for _ in range(1500):
        rule.backward(noisy, X, loss)
    assert rule.forward_passes == 1501 * 16  # one pass a step
    clean = network(rule)
    learning_rule("anp", sigma=0.1, samples=1500, seed=0).backward(clean, X, loss)
    assert cosine_similarity(gradients(noisy), gradients(clean), dim=0) > 0.95


def test_the_running_mean_is_a_mean_of_every_row():
    rule = mean_rule(rate=0.25)
    noisy = chip(rule, "ideal")
    losses = [rule.backward(noisy, x, squared_error(Y)) for x in (X, 2 * X, 3 * X)]
    ((_, mean_loss),) = rule.reference.state_dict().values()
    expected = 0.75 * (0.75 * losses[0] + 0.25 * losses[1]) + 0.25 * losses[2]
    torch.testing.assert_close(mean_loss, expected)


def test_the_running_mean_can_be_saved():
    rule, twin = mean_rule(), mean_rule()
    rule.backward(noisy := chip(rule), X, squared_error(Y))
    twin.load_state_dict(pickle.loads(pickle.dumps(rule.state_dict())))
    other = chip(rule)
    learning_rule("anp", samples=1).backward(other, X[:8], squared_error(Y[:8]))  # 16 rows: in step
    other.zero_grad()
    rule.backward(noisy, X, squared_error(Y))
    twin.backward(other, X, squared_error(Y))
    assert gradients(noisy).any()
    torch.testing.assert_close(gradients(noisy), gradients(other))


def test_a_running_mean_of_other_rows_is_refused():
    rule = mean_rule()
    rule.backward(noisy := chip(rule), X, squared_error(Y))
    with pytest.raises(RuleError, match=r"16 rows and has 8 now.*second-pass"):
        rule.backward(noisy, X[:8], squared_error(Y[:8]))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("anp", {"reference": "second"}, "did you mean 'second-pass'"),
        ("anp", {"reference": "running-mean", "reference_rate": 0.0}, r"in \(0, 1\]"),
        ("np", {"reference": "running-mean"}, "for anp and danp, not for 'np'"),
    ],
)
def test_impossible_references_are_refused(name, settings, message):
    with pytest.raises(RuleError, match=message):
        learning_rule(name, **settings)


def product_of_signs(rule_name, loss, steps=400):
    """Error of a network of sign units, output included, that learns the sign of a product."""
    torch.manual_seed(0)
    net = mlp([2, 32, 1], "sign", rule_name[0] == "d", output_activation="sign")
    chip = NoisyNetwork(net, 0.3, seed=0)
    rule = learning_rule(rule_name, samples=4, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    x = 2 * torch.rand(512, 2) - 1
    y = (x[:, :1] * x[:, 1:]).sign()
    largest = 0.0
    for _ in range(steps):
        batch = torch.randint(512, (128,))
        optimizer.zero_grad()
        rule.backward(chip, x[batch], loss(y[batch]))
        largest = max(largest, float(gradients(net).abs().max()))
        optimizer.step()
        rule.decorrelate(chip)
        decay.step()
    with torch.no_grad():
        return float((chip(x) != y).float().mean()), largest


def test_sign_units_learn_what_has_no_derivative():
    wrong = lambda y: lambda output: (output != y).float().mean(-1)  # noqa: E731
    error, _ = product_of_signs("danp", wrong)
    assert error < 0.22  # half of them at first; noisy here, too
    error, largest_gradient = product_of_signs("bp", squared_error, steps=20)
    assert largest_gradient == 0.0
    assert error > 0.4


def test_ppo_learns_with_its_actor_on_a_chip():
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = nprobot.PPO(
        "MlpPolicy", env, rule="danp", seed=0, n_steps=64, batch_size=64, n_epochs=2, device="cpu"
    )
    NoisyNetwork(model.actor, "analog", seed=0)
    assert on_chip(model.policy.mlp_extractor.policy_net)
    assert not on_chip(model.policy.value_net)
    before = [p.clone() for p in model.actor.parameters()]
    model.learn(256)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.actor.parameters(), strict=True))
    observation = env.reset()
    first, second = (model.predict(observation, deterministic=True)[0] for _ in range(2))
    assert (first != second).any()


def test_the_network_is_the_users_own_and_can_be_taken_off_the_chip():
    net = decorrelate(mlp([3, 4, 2]))
    noisy = NoisyNetwork(net, "spintronic", seed=0)
    assert noisy.network is net
    assert noisy.models == nprobot.policies.chip.PRESETS["spintronic"]
    assert "Offset(value=0.042092" in repr(noisy)
    twin = noisy.off_chip_copy()
    with torch.no_grad():
        assert torch.equal(twin(X.float()[:, :3]), twin(X.float()[:, :3]))
    for copier in (pickle.dumps, copy.deepcopy):
        with pytest.raises(NoiseInaccessibleError, match="state_dict"):
            copier(noisy)
    twin_chip = NoisyNetwork(twin, "spintronic", seed=0)
    twin_chip.load_state_dict(noisy.state_dict())
    with pytest.raises(ConfigError, match="already"):
        NoisyNetwork(noisy, 0.1)
