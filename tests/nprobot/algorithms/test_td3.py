"""`nprobot.TD3`: SB3's own under bp, no backward pass under perturbation, SB3's features kept."""

from __future__ import annotations

import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecNormalize

import nprobot
from nprobot.policies import is_decorrelated

from .off_policy_helpers import ALL_RULES, Toy, no_backward, ours_by_bp, passes_of, small, weights


def exploring(**settings):
    return small(action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.1)), **settings)


def test_bp_is_sb3s_own_td3_weight_for_weight():
    arguments = exploring(seed=3, gradient_steps=2)

    def learnt(make, **rule):
        model = make("MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=3), **rule, **arguments)
        start = weights(model)
        return model.learn(100), start

    theirs, start = learnt(stable_baselines3.TD3)
    ours, same_start = learnt(nprobot.TD3, rule="bp")
    assert torch.equal(start, same_start)
    assert torch.equal(weights(ours), weights(theirs))
    assert not torch.equal(weights(ours), start)


def test_bp_defaults_are_sb3s():
    env = make_vec_env("Pendulum-v1", 1)
    ours = nprobot.TD3("MlpPolicy", env, rule="bp", buffer_size=10)
    theirs = stable_baselines3.TD3("MlpPolicy", env, buffer_size=10)
    for name in ("batch_size", "tau", "gamma", "train_freq", "gradient_steps", "policy_delay"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.lr_schedule(0.5) == theirs.lr_schedule(0.5)
    assert weights(ours).shape == weights(theirs).shape


@pytest.mark.parametrize("settings", [{}, {"policy_delay": 3}, {"n_steps": 3}])
def test_our_loop_with_exact_gradients_is_sb3s(settings):
    arguments = exploring(seed=1, gradient_steps=2, learning_rate=1e-3, **settings)
    env = make_vec_env("Pendulum-v1", 1, seed=1)
    theirs = stable_baselines3.TD3("MlpPolicy", env, **arguments).learn(60)
    env = make_vec_env("Pendulum-v1", 1, seed=1)
    ours = ours_by_bp(nprobot.TD3, env, arguments, 60)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)


def test_bp_counts_the_passes_that_our_loop_counts():
    arguments = small(seed=1, policy_delay=3)
    plain = nprobot.TD3("MlpPolicy", make_vec_env("Pendulum-v1", 1), rule="bp", **arguments)
    ours = ours_by_bp(nprobot.TD3, make_vec_env("Pendulum-v1", 1), arguments, 60)
    assert passes_of(plain.learn(60)) == passes_of(ours)


@pytest.mark.parametrize("name", ALL_RULES)
def test_perturbation_rules_learn_without_a_backward_pass(name):
    env = make_vec_env("Pendulum-v1", 1, seed=0)
    model = nprobot.TD3("MlpPolicy", env, rule=name, rule_kwargs={"samples": 2}, **small(seed=0))
    assert is_decorrelated(model.actor) == is_decorrelated(model.critic) == name.startswith("d")
    before = weights(model)
    with no_backward():
        model.learn(60)
    assert not torch.equal(weights(model), before)
    assert model.rule.backward_passes == 0
    # A step of 16 samples: target actor and targets; two Q networks; in every second step the actor
    # and the critic that judges it. Three layer calls in each network.
    passes = 6 if name.endswith("inp") else 2
    steps = 3 + 2 * (1 + passes) + 0.5 * (1 + passes) * 2
    assert model.rule.forward_passes == 40 * 16 * steps


def test_the_actor_waits_for_the_critics():
    model = nprobot.TD3("MlpPolicy", "Pendulum-v1", rule="danp", **small(seed=0, policy_delay=1000))
    before = torch.cat([p.detach().flatten() for p in model.actor.parameters()])
    model.learn(60)
    assert torch.equal(before, torch.cat([p.flatten() for p in model.actor.parameters()]))


def test_targets_follow_what_decorrelated_networks_compute():
    model = nprobot.TD3(
        "MlpPolicy", "Pendulum-v1", rule="danp", **small(seed=0, tau=1.0, policy_delay=1)
    )
    model.learn(60)
    observations = torch.randn(8, 3)
    assert not torch.equal(model.actor.mu[2].R, torch.eye(16))
    assert not is_decorrelated(model.actor_target)
    torch.testing.assert_close(model.actor(observations), model.actor_target(observations))


def test_same_seed_same_run():
    runs = []
    for _ in range(2):
        noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.1))
        env = make_vec_env("Pendulum-v1", 2, seed=0)
        model = nprobot.TD3("MlpPolicy", env, rule="danp", **small(seed=5, action_noise=noise))
        runs.append(weights(model.learn(80)))
    assert torch.equal(*runs)


BOX = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)


@pytest.mark.parametrize(
    ("policy", "observations"),
    [
        ("MlpPolicy", BOX),
        ("MultiInputPolicy", spaces.Dict(a=BOX, b=spaces.Box(-1, 1, (2, 2)))),
        ("CnnPolicy", IMAGE),
    ],
)
def test_every_policy_of_sb3s_td3(policy, observations):
    extra = {"features_extractor_kwargs": {"features_dim": 8}} if policy == "CnnPolicy" else {}
    model = nprobot.TD3(
        policy,
        Toy(observations, spaces.Box(-2, 2, (2,))),
        rule="danp",
        rule_kwargs={"samples": 1},
        **small(seed=0, batch_size=4, learning_starts=4, policy_kwargs={"net_arch": [8], **extra}),
    )
    before = weights(model)
    model.learn(8)
    assert not torch.equal(before, weights(model))
    observation, _ = model.env.envs[0].reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert model.action_space.contains(action)


def test_save_load_predict_and_go_on(tmp_path):
    env = make_vec_env("Pendulum-v1", 1, seed=0)
    model = nprobot.TD3("MlpPolicy", env, rule="danp", rule_kwargs={"samples": 3}, **small(seed=0))
    model.learn(60)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    twin = nprobot.TD3.load(tmp_path / "model.zip", env=env, device="cpu")
    twin.load_replay_buffer(tmp_path / "buffer.pkl")
    assert (twin.rule.name, twin.rule.samples) == ("danp", 3)
    assert passes_of(twin) == passes_of(model)
    assert torch.equal(twin.actor.mu[2].R, model.actor.mu[2].R)
    observation = env.reset()
    assert np.array_equal(model.predict(observation)[0], twin.predict(observation)[0])
    before = weights(twin)
    twin.learn(60, reset_num_timesteps=False)
    assert not torch.equal(before, weights(twin))


def test_logger_normaliser_and_alignment(tmp_path):
    env = VecNormalize(make_vec_env("Reacher-v5", 2, seed=0))
    model = nprobot.TD3("MlpPolicy", env, rule="danp", alignment_interval=1, **small(seed=0))
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(120, log_interval=2)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    logged = {name.removeprefix("train/") for name in header if name.startswith("train/")}
    assert logged >= {
        *("actor_loss", "critic_loss", "n_updates", "grad_norm_actor", "grad_norm_critic"),
        *("decorrelation_loss_actor", "decorrelation_loss_critic", "node_noise", "forward_passes"),
        *("alignment_actor", "alignment_critic"),
    }
