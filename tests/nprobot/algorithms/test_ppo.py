"""`nprobot.PPO`: SB3's own under bp, no backward pass under perturbation, SB3's features kept."""

from __future__ import annotations

from unittest import mock

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

import nprobot
from nprobot.algorithms.losses import ClippedSurrogate
from nprobot.algorithms.ppo import minibatches
from nprobot.errors import RuleError
from nprobot.policies import is_decorrelated
from nprobot.policies.distributions import action_distribution

PLAIN_RULES = [
    name
    for name, rule in nprobot.catalogue.rules().items()
    if not rule.feedback and not rule.traits.peer
]

SMALL = {"n_steps": 64, "batch_size": 64, "n_epochs": 2, "device": "cpu"}


class Toy(gymnasium.Env):
    """Reward for matching a function of the observation; any space, one step an episode."""

    def __init__(self, observation_space, action_space):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        reward = -float(np.mean(np.abs(np.asarray(action, dtype=np.float64) - 0.5)))
        return self.observation_space.sample(), reward, True, False, {}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


def test_bp_is_sb3s_own_ppo_weight_for_weight():
    arguments = {"n_steps": 1250, "batch_size": 50, "n_epochs": 3, "seed": 3, "device": "cpu"}

    def learnt(make, **rule):
        model = make("MlpPolicy", make_vec_env("Pendulum-v1", 4, seed=3), **rule, **arguments)
        start = weights(model)
        model.learn(10_000)
        return model, start

    theirs, start = learnt(stable_baselines3.PPO)
    ours, same_start = learnt(nprobot.PPO, rule="bp")
    assert torch.equal(start, same_start)
    assert torch.equal(weights(ours), weights(theirs))
    assert not torch.equal(weights(ours), start)
    assert ours.rule.backward_passes == 2 * 3 * 10_000


def test_bp_defaults_are_sb3s():
    env = make_vec_env("Pendulum-v1", 1)
    ours, theirs = nprobot.PPO("MlpPolicy", env, rule="bp"), stable_baselines3.PPO("MlpPolicy", env)
    for name in ("batch_size", "n_steps", "n_epochs", "max_grad_norm", "ent_coef", "vf_coef"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.lr_schedule(0.5) == theirs.lr_schedule(0.5)


def test_rules_without_feedback_have_defaults_of_their_own():
    env = make_vec_env("Pendulum-v1", 1)
    guided = nprobot.PPO("MlpPolicy", env)
    assert (guided.batch_size, guided.max_grad_norm, guided.lr_schedule(1.0)) == (64, 0.5, 3e-4)
    plain = nprobot.PPO("MlpPolicy", env, rule="np")
    limit = float("inf")  # and not None, which SB3 would compare with after loading
    assert (plain.batch_size, plain.max_grad_norm, plain.lr_schedule(1.0)) == (256, limit, 3e-3)
    assert nprobot.PPO("MlpPolicy", env, max_grad_norm=None).max_grad_norm == limit
    assert nprobot.PPO("MlpPolicy", env, 0.1, batch_size=32).batch_size == 32


@pytest.mark.parametrize("name", [name for name in PLAIN_RULES if "bp" not in name])
def test_perturbation_rules_learn_without_a_backward_pass(name):
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = nprobot.PPO("MlpPolicy", env, rule=name, rule_kwargs={"samples": 2}, seed=0, **SMALL)
    assert is_decorrelated(model.policy) == name.startswith("d")
    before = weights(model)
    with (
        mock.patch.object(torch.Tensor, "backward", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "backward", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "grad", side_effect=AssertionError),
    ):
        model.learn(256)
    assert not torch.equal(weights(model), before)
    assert model.rule.backward_passes == 0
    # Two rollouts of 128 transitions, 2 epochs, two networks; clean pass + 2 draws x passes.
    noisy = {"actor": 4, "critic": 3}
    passes = sum(1 + 2 * (noisy[n] if name.endswith("inp") else 1) for n in noisy)
    assert model.rule.forward_passes == 256 * 2 * passes


def test_dbp_trains_decorrelated_layers_by_backprop():
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = nprobot.PPO("MlpPolicy", env, rule="dbp", seed=0, **SMALL)
    model.learn(256)
    assert not torch.equal(model.actor.head.R, torch.eye(64))
    assert model.rule.backward_passes > 0


def test_r_comes_to_rest_with_the_weights():
    def change(schedule):
        env = make_vec_env("Pendulum-v1", 2, seed=0)
        model = nprobot.PPO("MlpPolicy", env, schedule, rule="danp", seed=0, **SMALL)
        model.learn(128)
        return model.actor.head.R - torch.eye(64)

    full = change(lambda remaining: 1e-3)
    # The learning rate of the only update is a tenth of the highest one.
    less = change(lambda remaining: 1e-3 if remaining < 0.5 else 1e-4)
    assert 0.05 < less.norm() / full.norm() < 0.2


def test_same_seed_same_run():
    runs = []
    for _ in range(2):
        env = make_vec_env("Pendulum-v1", 2, seed=0)
        model = nprobot.PPO("MlpPolicy", env, rule="danp", seed=5, **SMALL)
        runs.append(weights(model.learn(256)))
    assert torch.equal(*runs)


BOX = spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("policy", "observations", "actions"),
    [
        ("MlpPolicy", BOX, spaces.Box(-1, 1, (2,))),
        ("MlpPolicy", BOX, spaces.Discrete(3)),
        ("MlpPolicy", BOX, spaces.MultiDiscrete([2, 3])),
        ("MlpPolicy", BOX, spaces.MultiBinary(2)),
        ("MlpPolicy", spaces.Discrete(4), spaces.Discrete(3)),
        ("MultiInputPolicy", spaces.Dict(a=BOX, b=spaces.Box(-1, 1, (2, 2))), spaces.Discrete(2)),
        ("CnnPolicy", spaces.Box(0, 255, (1, 36, 36), np.uint8), spaces.Discrete(2)),
    ],
)
def test_every_policy_and_action_space_of_sb3s_ppo(policy, observations, actions):
    model = nprobot.PPO(
        policy,
        Toy(observations, actions),
        rule="danp",
        rule_kwargs={"samples": 1},
        seed=0,
        n_steps=8,
        batch_size=8,
        n_epochs=1,
        ent_coef=0.01,
        clip_range_vf=0.2,
        target_kl=10.0,
        device="cpu",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}}
        if policy == "CnnPolicy"
        else None,
    )
    before = weights(model)
    model.learn(16)
    assert not torch.equal(before, weights(model))
    observation, _ = model.env.envs[0].reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert actions.contains(action)


def test_save_load_predict_and_go_on(tmp_path):
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = nprobot.PPO("MlpPolicy", env, rule="danp", rule_kwargs={"samples": 3}, seed=0, **SMALL)
    model.learn(256)
    model.save(tmp_path / "model.zip")
    twin = nprobot.PPO.load(tmp_path / "model.zip", env=env, device="cpu")
    assert twin.rule.name == "danp"
    assert twin.rule.samples == 3
    assert twin.rule.forward_passes == model.rule.forward_passes
    assert torch.equal(twin.actor.head.R, model.actor.head.R)
    observation = env.reset()
    for deterministic in (True,):
        a, _ = model.predict(observation, deterministic=deterministic)
        b, _ = twin.predict(observation, deterministic=deterministic)
        assert np.array_equal(a, b)
    before = weights(twin)
    twin.learn(256, reset_num_timesteps=False)
    assert not torch.equal(before, weights(twin))
    without = nprobot.PPO.load(tmp_path / "model.zip", device="cpu")
    assert np.array_equal(without.predict(observation, deterministic=True)[0], a)


def test_logger_normaliser_callback_and_alignment(tmp_path):
    class Count(BaseCallback):
        calls = 0

        def _on_step(self):
            Count.calls += 1
            return True

    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))
    model = nprobot.PPO(
        "MlpPolicy", env, rule="danp", alignment_interval=1, seed=0, target_kl=10.0, **SMALL
    )
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(256, callback=Count(), log_interval=1)
    assert Count.calls == 128
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    logged = {name.removeprefix("train/") for name in header if name.startswith("train/")}
    assert logged >= {
        *("policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction", "std"),
        *("grad_norm_actor", "grad_norm_critic", "weight_norm", "node_noise", "forward_passes"),
        *("decorrelation_loss_actor", "decorrelation_loss_critic"),
        *("alignment_actor", "alignment_critic", "explained_variance"),
    }


def test_alignment_does_not_change_learning():
    runs = []
    for interval in (0, 1):
        env = make_vec_env("Pendulum-v1", 2, seed=0)
        model = nprobot.PPO(
            "MlpPolicy", env, rule="anp", alignment_interval=interval, seed=5, **SMALL
        )
        runs.append(weights(model.learn(256)))
    assert torch.equal(*runs)


@pytest.mark.parametrize("kind", ["plain", "dict"])
@pytest.mark.parametrize("size", [8, 7])  # a last minibatch of the same, and of another length
def test_minibatches_are_those_of_sb3(kind, size):
    box = spaces.Box(-1, 1, (3,))
    space = spaces.Dict({"a": box, "b": box}) if kind == "dict" else box
    policy = "MultiInputPolicy" if kind == "dict" else "MlpPolicy"
    env = make_vec_env(lambda: Toy(space, spaces.Box(-1, 1, (2,))), 2, seed=0)
    model = nprobot.PPO(policy, env, rule="np", n_steps=16, batch_size=8, seed=0, device="cpu")
    model.learn(32)
    np.random.seed(1)  # noqa: NPY002  the generator that SB3 shuffles by
    theirs = list(model.rollout_buffer.get(size))
    np.random.seed(1)  # noqa: NPY002
    ours = list(minibatches(model.rollout_buffer, size))
    assert len(ours) == len(theirs) == -(-32 // size)
    for one, other in zip(ours, theirs, strict=True):
        for name in one._fields:
            got, wanted = getattr(one, name), getattr(other, name)
            if not isinstance(wanted, dict):
                got, wanted = {"": got}, {"": wanted}
            assert got.keys() == wanted.keys()
            assert all(torch.equal(got[key], wanted[key]) for key in wanted)


def test_kl_and_clip_fraction_of_an_update():
    gaussian = action_distribution(spaces.Box(-1, 1, (1,)))
    actions, means = torch.zeros(4, 1), torch.tensor([[0.0], [0.5], [1.0], [2.0]])
    outputs = means, torch.zeros(4, 1)
    old = gaussian.log_prob((torch.zeros(4, 1), torch.zeros(4, 1)), actions)
    surrogate = ClippedSurrogate(gaussian, actions, old, torch.ones(4), 0.2, 0.0)
    surrogate(outputs)
    log_ratio = -(means.squeeze(-1) ** 2) / 2  # 0, -1/8, -1/2, -2
    expected = (log_ratio.exp() - 1 - log_ratio).mean()
    assert surrogate.approximate_kl() == pytest.approx(float(expected), rel=1e-5)
    assert surrogate.clip_fraction() == 0.5


def test_target_kl_stops_an_update():
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    arguments = SMALL | {"batch_size": 32, "n_epochs": 10}
    model = nprobot.PPO("MlpPolicy", env, 1e-3, rule="danp", seed=0, target_kl=1e-9, **arguments)
    model.learn(128)
    assert model._n_updates == 1


def test_clipping_limits_each_network():
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = nprobot.PPO("MlpPolicy", env, rule="danp", seed=0, max_grad_norm=1e-3, **SMALL)
    model.learn(128)
    for network in (model.actor, model.critic):
        norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()])
        assert norm == pytest.approx(1e-3, rel=1e-3)


def test_settings_for_a_finished_rule_are_refused():
    env = make_vec_env("Pendulum-v1", 1)
    rule = nprobot.learning_rule("danp")
    with pytest.raises(RuleError, match="rule given by name"):
        nprobot.PPO("MlpPolicy", env, rule=rule, rule_kwargs={"samples": 3})
    assert nprobot.PPO("MlpPolicy", env, rule=rule).rule is rule


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_danp_balances_the_pendulum(seed):
    env = VecNormalize(make_vec_env("InvertedPendulum-v5", 8, seed=seed))
    model = nprobot.PPO("MlpPolicy", env, rule="danp", seed=seed, n_steps=256, device="cpu")
    model.learn(100_000)
    env.training = env.norm_reward = False
    mean, _ = stable_baselines3.common.evaluation.evaluate_policy(model, env, 20)
    assert mean >= 950
