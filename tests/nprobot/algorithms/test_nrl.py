"""`nprobot.NRL`: modes, SB3's interface, what is refused, and that it learns."""

from __future__ import annotations

import pickle
from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

import nprobot
from nprobot.algorithms.nrl import with_last_observations
from nprobot.algorithms.nrl_reinforce import REINFORCE
from nprobot.errors import ArchitectureError, NoiseInaccessibleError, RuleError
from nprobot.policies import DecorrelatedLinear, is_decorrelated
from nprobot.policies.chip.crossbar import on_chip

from .nrl_helpers import BOX, MODES, SMALL, Reach, made, reach, weights


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_learns_something_without_a_backward_pass(mode):
    model = made(**MODES[mode])
    before = weights(model), weights(model, "critic")
    with (
        mock.patch.object(torch.Tensor, "backward", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "backward", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "grad", side_effect=AssertionError),
    ):
        model.learn(64)
    assert model.num_timesteps == 64
    assert not torch.equal(weights(model), before[0])
    assert torch.equal(weights(model, "critic"), before[1]) == (mode == "running mean")
    assert model.rule.backward_passes == 0
    assert on_chip(model.policy) == (MODES[mode].get("noise_source", "network") == "network")
    moved = [
        not torch.equal(layer.R, torch.eye(len(layer.R)))
        for layer in model.policy.actor
        if isinstance(layer, DecorrelatedLinear)
    ]
    assert all(moved)
    assert bool(moved) == model.rule.decorrelated == is_decorrelated(model.policy)


def test_forward_passes_are_counted():
    model = made(references=2, rule_kwargs={"samples": 5}, critic_epochs=3)
    model.learn(32)
    # 32 steps: 3 passes of the actor, 2 values; then 3 epochs of a clean and 5 noisy passes.
    assert model.rule.forward_passes == 32 * (3 + 2) + 3 * 32 * 6


def test_last_observations_are_those_of_the_episode_that_ended():
    new = np.arange(6.0).reshape(3, 2)
    dones = np.array([False, True, False])
    infos = [{}, {"terminal_observation": np.array([7.0, 8.0])}, {}]
    assert with_last_observations(new, dones, infos).tolist() == [[0, 1], [7, 8], [4, 5]]
    assert new[1].tolist() == [2, 3]
    nested = with_last_observations(
        {"a": new}, dones, [{}, {"terminal_observation": {"a": np.array([7.0, 8.0])}}, {}]
    )
    assert nested["a"][1].tolist() == [7, 8]
    assert with_last_observations(new, ~dones & False, infos) is new


def test_same_seed_same_run():
    runs = [
        made(noise_source=noise).learn(64)
        for noise in ("network", "network", "injected", "injected")
    ]
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert torch.equal(weights(runs[2]), weights(runs[3]))
    assert not torch.equal(weights(runs[0]), weights(made(seed=1).learn(64)))


@pytest.mark.parametrize("noise", ["network", "actuators", "injected"])
def test_save_load_predict_and_go_on(noise, tmp_path):
    model = made(noise_source=noise, node_noise=0.1, learning_rate=1e-3)
    model.learn(64)
    model.save(tmp_path / "model")
    twin = nprobot.NRL.load(tmp_path / "model", env=model.env, device="cpu")
    assert torch.equal(weights(twin), weights(model))
    assert twin.noise_source == noise
    assert twin.rule.forward_passes == model.rule.forward_passes
    assert repr(twin.exploration.state_dict()) == repr(model.exploration.state_dict())
    for a, b in zip(
        model.policy.optimizer.state_dict()["state"].values(),
        twin.policy.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert torch.equal(a["exp_avg"], b["exp_avg"])
    observation = model.env.reset()
    a, b = (m.predict(observation, deterministic=True)[0] for m in (model, twin))
    assert (noise == "network") != np.array_equal(a, b)
    before = weights(twin)
    twin.learn(32, reset_num_timesteps=False)
    assert twin.num_timesteps == 96
    assert not torch.equal(before, weights(twin))


def test_the_chip_is_the_same_device_after_loading(tmp_path):
    model = made(node_noise=[nprobot.policies.chip.WeightMismatch(0.5)], device_seed=3)
    model.save(tmp_path / "model")
    twin = nprobot.NRL.load(tmp_path / "model", device="cpu")
    x = torch.randn(5, 3)
    with torch.no_grad():
        assert torch.equal(model.policy.actor(x), twin.policy.actor(x))
        other = made(node_noise=model.node_noise, device_seed=4).policy.actor
        other.load_state_dict(model.policy.actor.state_dict())
        assert not torch.allclose(model.policy.actor(x), other(x))


def test_a_saved_model_holds_no_noise(tmp_path):
    model = made()
    model.learn(32)
    model.save(tmp_path / "model")
    with pytest.raises(NoiseInaccessibleError):
        pickle.dumps(model.policy)


def test_callbacks_loggers_and_normalisation(tmp_path):
    class Count(BaseCallback):
        calls = 0

        def _on_step(self):
            self.calls += 1
            assert self.locals["infos"]
            assert self.locals["rewards"].shape == (4,)
            return self.calls < 20

    env = VecNormalize(reach())
    model = nprobot.NRL("MlpPolicy", env, rule="danp", **SMALL)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callback = Count()
    model.learn(10_000, callback=callback, log_interval=1)
    assert callback.calls == 20
    assert model.num_timesteps == 80
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    for name in (
        "rollout/ep_rew_mean",
        "train/value_loss",
        "train/forward_passes",
        "train/decorrelation_loss_actor",
        "train/explained_variance",
    ):
        assert name in header
    model.learn(32, progress_bar=False)  # and it can go on


def test_actions_span_the_range_and_are_cut_off_at_its_ends():
    model = made(node_noise=0.0)
    policy = model.policy
    outputs = torch.tensor([[-1.0, 1.0], [0.0, 0.5], [-7.0, 7.0]])
    actions = policy.actions(outputs)
    np.testing.assert_allclose(actions, [[-2, 6], [2, 4], [-2, 6]])
    torch.testing.assert_close(policy.outputs_for(actions), outputs.clamp(-1, 1))
    observation = np.zeros((1, 3), np.float32)
    with torch.no_grad():
        policy.actor[-1].bias[:] = torch.tensor([0.5, -9.0])
        policy.actor[-1].weight.zero_()
    np.testing.assert_allclose(model.predict(observation)[0], [[4.0, -2.0]])
    assert model.predict(observation[0])[0].shape == (2,)


@pytest.mark.parametrize(
    ("policy", "env"),
    [
        ("MlpPolicy", lambda: Reach(action_space=spaces.Box(-1.0, 1.0, (1, 2)))),
        ("MultiInputPolicy", lambda: Reach(spaces.Dict(a=BOX, b=spaces.Box(-1, 1, (2, 2))))),
        ("MlpPolicy", lambda: "Pendulum-v1"),
    ],
)
def test_any_box_environment(policy, env):
    model = nprobot.NRL(policy, env(), **SMALL)
    before = weights(model)
    model.learn(16)
    assert not torch.equal(before, weights(model))


@pytest.mark.parametrize("rule", ["danp", "np"])
@pytest.mark.parametrize("source_rule", ["danp", "np"])
def test_it_can_go_on_from_what_ppo_has_learned(source_rule, rule):
    arch = {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}
    source = nprobot.PPO("MlpPolicy", reach(), rule=source_rule, n_steps=64, batch_size=64, **arch)
    source.learn(256)
    model = made(rule=rule, node_noise=0.0)
    model.policy.adopt(source.policy)
    x = 0.5 * np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    expected, _ = source.predict(x, deterministic=True)
    np.testing.assert_allclose(model.predict(x)[0], expected, atol=1e-5)
    with torch.no_grad():
        values = source.policy.predict_values(torch.as_tensor(x)).squeeze(-1)
        torch.testing.assert_close(model.policy.values(torch.as_tensor(x)), values)
    model.learn(32)
    with pytest.raises(ArchitectureError, match=r"Linear\(3, 8\)"):
        made(policy_kwargs={"net_arch": [8]}).policy.adopt(source.policy)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(RuleError, match=r"noise_source 'netwrok' \(did you mean 'network'\?\)"):
        made(noise_source="netwrok")
    with pytest.raises(RuleError, match=r"baseline 'mean'.*Known: critic"):
        made(baseline="mean")
    with pytest.raises(RuleError, match="standard deviation"):
        made(noise_source="injected", node_noise="analog")
    with pytest.raises(RuleError, match="above 0"):
        made(noise_source="injected", node_noise=0.0)
    with pytest.raises(RuleError, match="perturbation rule"):
        made(noise_source="actuators", rule="bp")
    with pytest.raises(RuleError, match="rule_kwargs"):
        made(rule=nprobot.learning_rule("np"), rule_kwargs={"samples": 1})
    with pytest.raises(RuleError, match="sensor='current-sense'"):
        nprobot.NRL("MlpPolicy", reach(), noise_source="actuators", **SMALL).learn(8)
    with pytest.raises(RuleError, match="node_noise"):
        made(node_noise=None).learn(8)
    for noise in ("injected", "actuators"):
        chip = {"net_arch": [4], "node_noise": 0.1}
        with pytest.raises(NoiseInaccessibleError, match="choose noise_source='network'"):
            made(noise_source=noise, policy_kwargs=chip).learn(8)


def final_reward(make=nprobot.NRL, **kwargs):
    """Mean reward a step after learning, noise and all; about −0.67 at first, 0 at best."""
    model = made(make, n_envs=8, learning_rate=1e-2, gamma=0.5, n_steps=4, **kwargs)
    model.learn(4000)
    observation, rewards = model.env.reset(), []
    for _ in range(100):
        observation, reward, _, _ = model.env.step(model.predict(observation)[0])
        rewards.append(reward.mean())
    return float(np.mean(rewards))


@pytest.mark.parametrize("mode", ["network", "actuators", "injected", "running mean"])
def test_a_robot_learns_on_line(mode):
    assert final_reward(**MODES[mode]) > -0.15


def test_the_backprop_twin_learns_and_does_use_backpropagation():
    assert final_reward(REINFORCE) > -0.15
    with (
        mock.patch.object(torch.autograd, "grad", side_effect=AssertionError("differentiated")),
        pytest.raises(AssertionError, match="differentiated"),
    ):
        made(REINFORCE).learn(8)
    with pytest.raises(RuleError, match="action_noise"):
        made(REINFORCE, action_noise=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_inverted_pendulum_is_solved_with_all_noise_hidden(seed):
    env = VecNormalize(make_vec_env("InvertedPendulum-v5", 8, seed=seed))
    model = nprobot.NRL("MlpPolicy", env, seed=seed, device="cpu")
    model.learn(150_000)
    env.training, env.norm_reward = False, False
    lengths, observation, steps = [], env.reset(), np.zeros(8)
    while len(lengths) < 8:
        observation, _, dones, _ = env.step(model.predict(observation)[0])
        steps += 1
        lengths += steps[dones].tolist()
        steps[dones] = 0
    assert np.mean(lengths) >= 950
