"""`nprobot.SAC`: SB3's own under bp, no backward pass under perturbation, SB3's features kept."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

import nprobot
from nprobot.algorithms.losses import SoftActionValue, squashed_gaussian
from nprobot.errors import RuleError
from nprobot.policies import is_decorrelated, load_trusted_sb3_zip
from nprobot.policies.sb3_networks import FrozenCritic

from .off_policy_helpers import ALL_RULES, Toy, no_backward, ours_by_bp, passes_of, small, weights


def test_bp_is_sb3s_own_sac_weight_for_weight():
    arguments = small(seed=3, gradient_steps=2)

    def learnt(make, **rule):
        model = make("MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=3), **rule, **arguments)
        start = weights(model)
        return model.learn(100), start

    theirs, start = learnt(stable_baselines3.SAC)
    ours, same_start = learnt(nprobot.SAC, rule="bp")
    assert torch.equal(start, same_start)
    assert torch.equal(weights(ours), weights(theirs))
    assert torch.equal(ours.log_ent_coef, theirs.log_ent_coef)
    assert not torch.equal(weights(ours), start)


def test_bp_defaults_are_sb3s():
    env = make_vec_env("Pendulum-v1", 1)
    ours = nprobot.SAC("MlpPolicy", env, rule="bp", buffer_size=10)
    theirs = stable_baselines3.SAC("MlpPolicy", env, buffer_size=10)
    for name in ("batch_size", "tau", "gamma", "train_freq", "gradient_steps", "learning_starts"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.lr_schedule(0.5) == theirs.lr_schedule(0.5)
    assert weights(ours).shape == weights(theirs).shape


@pytest.mark.parametrize(
    "settings", [{}, {"ent_coef": 0.2, "n_steps": 3}, {"target_update_interval": 2}]
)
def test_our_loop_with_exact_gradients_is_sb3s(settings):
    """What perturbation estimates is the gradient that SB3 follows, temperature included."""
    arguments = small(seed=1, gradient_steps=3, learning_rate=1e-3, **settings)
    env = make_vec_env("Pendulum-v1", 1, seed=1)
    theirs = stable_baselines3.SAC("MlpPolicy", env, **arguments).learn(60)
    env = make_vec_env("Pendulum-v1", 1, seed=1)
    ours = ours_by_bp(nprobot.SAC, env, arguments, 60)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)
    if theirs.log_ent_coef is not None:
        torch.testing.assert_close(ours.log_ent_coef, theirs.log_ent_coef)


def test_bp_counts_the_passes_that_our_loop_counts():
    arguments = small(seed=1)
    plain = nprobot.SAC("MlpPolicy", make_vec_env("Pendulum-v1", 1), rule="bp", **arguments)
    ours = ours_by_bp(nprobot.SAC, make_vec_env("Pendulum-v1", 1), arguments, 60)
    assert passes_of(plain.learn(60)) == passes_of(ours)


@pytest.mark.parametrize("name", ALL_RULES)
def test_perturbation_rules_learn_without_a_backward_pass(name):
    env = make_vec_env("Pendulum-v1", 1, seed=0)
    model = nprobot.SAC("MlpPolicy", env, rule=name, rule_kwargs={"samples": 2}, **small(seed=0))
    assert is_decorrelated(model.actor) == is_decorrelated(model.critic) == name.startswith("d")
    before = weights(model), model.log_ent_coef.detach().clone()
    with no_backward():
        model.learn(60)
    assert not torch.equal(weights(model), before[0])
    assert not torch.equal(model.log_ent_coef, before[1])
    assert model.rule.backward_passes == 0
    # A step of 16 samples: actor at s' and two targets; two Q networks; the actor and the critics
    # that judge it. Three layer calls in a Q network, four in the actor.
    actor, value = (8, 6) if name.endswith("inp") else (2, 2)
    assert model.rule.forward_passes == 40 * 16 * (3 + 2 * (1 + value) + (1 + actor) * 3)


def test_all_passes_of_a_sample_share_its_draw():
    """The loss judges what perturbation does to an action, not what another draw would do."""
    model = nprobot.SAC("MlpPolicy", "Pendulum-v1", rule="danp", **small(seed=0))
    critic = FrozenCritic(model.critic, torch.randn(6, 3))
    loss = SoftActionValue(critic, torch.randn(6, 1), torch.tensor(0.3))
    mean, log_std = torch.randn(6, 1), torch.randn(6, 1)
    clean = loss((mean, log_std))
    torch.testing.assert_close(
        loss((mean.expand(4, 6, 1), log_std.expand(4, 6, 1))), clean.expand(4, 6)
    )


def test_density_of_squashed_actions_is_sb3s():
    mean, log_std, noise = torch.randn(3, 6, 2)
    actions, log_prob = squashed_gaussian((mean, log_std), noise)
    theirs = SquashedDiagGaussianDistribution(2).proba_distribution(mean, log_std)
    unsquashed = mean + log_std.exp() * noise
    torch.testing.assert_close(actions, unsquashed.tanh())
    torch.testing.assert_close(log_prob, theirs.log_prob(actions, unsquashed))


def test_dbp_trains_decorrelated_layers_by_backprop():
    model = nprobot.SAC("MlpPolicy", "Pendulum-v1", rule="dbp", **small(seed=0)).learn(60)
    assert not torch.equal(model.actor.mu.R, torch.eye(16))
    assert model.rule.backward_passes > 0


def test_the_actor_does_not_learn_the_critics():
    model = nprobot.SAC("MlpPolicy", "Pendulum-v1", rule="danp", **small(seed=0))
    model.critic.optimizer.step = lambda *a, **k: None
    before = torch.cat([p.detach().flatten() for p in model.critic.parameters()])
    actor = weights(model)
    model.learn(60)
    assert torch.equal(before, torch.cat([p.flatten() for p in model.critic.parameters()]))
    assert not torch.equal(actor, weights(model))


def test_targets_follow_what_decorrelated_critics_compute():
    """An average of the layers' maps W R: at τ = 1 the target is the critic."""
    model = nprobot.SAC("MlpPolicy", "Pendulum-v1", rule="danp", **small(seed=0, tau=1.0))
    model.learn(60)
    assert not torch.equal(model.critic.qf0[2].R, torch.eye(16))
    assert not is_decorrelated(model.critic_target)
    observations, actions = torch.randn(8, 3), torch.rand(8, 1)
    for q, target in zip(
        model.critic(observations, actions),
        model.critic_target(observations, actions),
        strict=True,
    ):
        torch.testing.assert_close(q, target)


def test_r_comes_to_rest_with_the_weights():
    def change(schedule):
        model = nprobot.SAC("MlpPolicy", "Pendulum-v1", schedule, rule="danp", **small(seed=0))
        model.learn(21)  # one update
        return model.critic.qf0[2].R - torch.eye(16)

    full = change(lambda remaining: 1e-3)
    less = change(lambda remaining: 1e-3 if remaining == 1 else 1e-4)
    assert 0.05 < less.norm() / full.norm() < 0.2


def test_same_seed_same_run():
    runs = []
    for _ in range(2):
        env = make_vec_env("Pendulum-v1", 2, seed=0)
        model = nprobot.SAC("MlpPolicy", env, rule="danp", **small(seed=5))
        runs.append(weights(model.learn(80)))
    assert torch.equal(*runs)


BOX = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)


@pytest.mark.parametrize(
    ("policy", "observations"),
    [
        ("MlpPolicy", BOX),
        ("MlpPolicy", spaces.Discrete(4)),
        ("MultiInputPolicy", spaces.Dict(a=BOX, b=spaces.Box(-1, 1, (2, 2)))),
        ("CnnPolicy", IMAGE),
    ],
)
def test_every_policy_of_sb3s_sac(policy, observations):
    extra = {"features_extractor_kwargs": {"features_dim": 8}} if policy == "CnnPolicy" else {}
    model = nprobot.SAC(
        policy,
        Toy(observations, spaces.Box(-2, 2, (2,))),
        rule="danp",
        rule_kwargs={"samples": 1},
        **small(seed=0, batch_size=4, learning_starts=4, policy_kwargs={"net_arch": [8], **extra}),
    )
    before = weights(model)
    model.learn(7)
    assert not torch.equal(before, weights(model))
    observation, _ = model.env.envs[0].reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert model.action_space.contains(action)


def test_save_load_predict_and_go_on(tmp_path):
    env = make_vec_env("Pendulum-v1", 1, seed=0)
    model = nprobot.SAC("MlpPolicy", env, rule="danp", rule_kwargs={"samples": 3}, **small(seed=0))
    model.learn(60)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    twin = nprobot.SAC.load(tmp_path / "model.zip", env=env, device="cpu")
    twin.load_replay_buffer(tmp_path / "buffer.pkl")
    assert (twin.rule.name, twin.rule.samples) == ("danp", 3)
    assert passes_of(twin) == passes_of(model)
    assert torch.equal(twin.critic.qf1[2].R, model.critic.qf1[2].R)
    assert torch.equal(twin.log_ent_coef, model.log_ent_coef)
    observation = env.reset()
    action, _ = model.predict(observation, deterministic=True)
    assert np.array_equal(action, twin.predict(observation, deterministic=True)[0])
    deployed = load_trusted_sb3_zip(tmp_path / "model.zip", nprobot.SAC)
    assert deployed.predict(observation[0]) == pytest.approx(action[0], abs=1e-5)
    before = weights(twin)
    twin.learn(60, reset_num_timesteps=False)
    assert not torch.equal(before, weights(twin))
    without = nprobot.SAC.load(tmp_path / "model.zip", device="cpu")
    assert np.array_equal(action, without.predict(observation, deterministic=True)[0])


def test_logger_normaliser_callback_and_alignment(tmp_path):
    class Count(BaseCallback):
        calls = 0

        def _on_step(self):
            Count.calls += 1
            return True

    env = VecNormalize(make_vec_env("Reacher-v5", 2, seed=0))
    model = nprobot.SAC("MlpPolicy", env, rule="danp", alignment_interval=1, **small(seed=0))
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(120, callback=Count(), log_interval=2)
    assert Count.calls == 60
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    logged = {name.removeprefix("train/") for name in header if name.startswith("train/")}
    assert logged >= {
        *("actor_loss", "critic_loss", "ent_coef", "ent_coef_loss", "n_updates"),
        *("grad_norm_actor", "grad_norm_critic", "weight_norm_actor", "weight_norm_critic"),
        *("decorrelation_loss_actor", "decorrelation_loss_critic", "node_noise", "forward_passes"),
        *("alignment_actor", "alignment_critic"),
    }


def test_alignment_does_not_change_learning():
    runs = []
    for interval in (0, 1):
        env = make_vec_env("Pendulum-v1", 1, seed=0)
        model = nprobot.SAC(
            "MlpPolicy", env, rule="danp", alignment_interval=interval, **small(seed=5)
        )
        runs.append((weights(model.learn(50)), model.rule.forward_passes))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize("algorithm", [nprobot.SAC, nprobot.TD3, nprobot.PPO])
def test_learned_feedback_takes_one_pass_and_little_noise_unless_told(algorithm):
    def rule(**settings):
        model = algorithm("MlpPolicy", "Pendulum-v1", rule="np", rule_kwargs=settings, device="cpu")
        return model.rule.samples, model.rule.sigma

    assert algorithm("MlpPolicy", "Pendulum-v1", device="cpu").rule.feedback.kind == "layerwise"
    assert rule() == (8, 1e-2)
    assert rule(feedback=True) == (1, 1e-3)
    assert rule(feedback=True, samples=4, sigma=1e-4) == (4, 1e-4)


def test_settings_for_a_finished_rule_are_refused():
    rule = nprobot.learning_rule("danp")
    with pytest.raises(RuleError, match="rule given by name"):
        nprobot.SAC("MlpPolicy", "Pendulum-v1", rule=rule, rule_kwargs={"samples": 3})
    assert nprobot.SAC("MlpPolicy", "Pendulum-v1", rule=rule, buffer_size=10).rule is rule


def test_perturbation_finds_the_best_arm_of_a_bandit():
    class Bandit(gymnasium.Env):
        observation_space = BOX
        action_space = spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(3, np.float32), {}

        def step(self, action):
            return np.zeros(3, np.float32), -float((action[0] - 0.5) ** 2), True, False, {}

    settings = small(seed=0, learning_rate=1e-2, ent_coef=0.001, batch_size=32)
    model = nprobot.SAC("MlpPolicy", Bandit(), rule="danp", **settings)
    model.learn(500)
    action, _ = model.predict(np.zeros(3, np.float32), deterministic=True)
    assert action[0] == pytest.approx(0.5, abs=0.2)


@pytest.mark.slow
def test_danp_swings_the_pendulum_up():
    env = VecNormalize(make_vec_env("Pendulum-v1", 8, seed=0), gamma=0.98)
    model = nprobot.SAC(
        "MlpPolicy",
        env,
        rule="danp",
        ent_coef="auto_0.01",
        **{"tau": 0.02, "gamma": 0.98, "learning_starts": 500, "buffer_size": 100_000},
        seed=0,
        device="cpu",
    )
    model.learn(20_000)
    env.training = env.norm_reward = False
    mean, _ = evaluate_policy(model, env, 20)
    assert mean >= -250  # a random policy gets -1200, the best ones -100 to -150
