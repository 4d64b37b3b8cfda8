"""rsl_rl's runner with our algorithm in place of its own."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import pytest
import torch
from rsl_rl.env import VecEnv
from rsl_rl.models import MLPModel
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from nprobot.errors import ArchitectureError, ConfigError, RuleError
from nprobot.learning import learning_rule
from nprobot.rsl_rl import RunnerEnv

OURS = "nprobot.rsl_rl:PPO"


class Noise(VecEnv):
    """Six environments that show random numbers, an image among them, and end at random."""

    num_envs, num_actions, max_episode_length, device, step_dt = 6, 3, 20, "cpu", 0.02

    def __init__(self):
        self.cfg = {}
        self.random = torch.Generator().manual_seed(0)
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self.unwrapped = self

    def get_observations(self):
        shapes = {"policy": (5,), "more": (2,), "image": (1, 8, 8)}
        draw = {k: torch.randn(6, *shape, generator=self.random) for k, shape in shapes.items()}
        return TensorDict(draw, batch_size=[6])

    def step(self, actions):
        reward = -actions.square().sum(-1)
        dones = torch.rand(6, generator=self.random) < 0.1
        time_outs = dones & (torch.rand(6, generator=self.random) < 0.5)
        return self.get_observations(), reward, dones.long(), {"time_outs": time_outs.float()}


def mirrored(env, obs, actions):
    if obs is not None:
        obs = torch.cat([obs, TensorDict({k: -v for k, v in obs.items()}, obs.batch_size)])
    return obs, None if actions is None else torch.cat([actions, -actions])


def settings(model="MLPModel", *, critic=None, distribution=None, algorithm=(), **of_model):
    """A runner's configuration."""
    of_model = {"class_name": model, "hidden_dims": [8, 8], "activation": "elu"} | of_model
    given = {"class_name": "GaussianDistribution"} | (distribution or {})
    return {
        "num_steps_per_env": 10,
        "save_interval": 100,
        "obs_groups": {"actor": ["policy"], "critic": ["policy", "more"], "rnd_state": ["more"]},
        "actor": of_model | {"distribution_cfg": given},
        "critic": critic or of_model,
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 2, "num_mini_batches": 3}
        | dict(algorithm),
    }


def symmetry(**uses):
    given = {"data_augmentation_func": mirrored, "mirror_loss_coeff": 0.5} | uses
    return {"symmetry_cfg": given}


def of_images(**algorithm):
    cnn = {"output_channels": [2], "kernel_size": 3, "stride": 2}
    config = settings("CNNModel", cnn_cfg=cnn, algorithm=algorithm)
    groups = ["policy", "image"]
    return config | {"obs_groups": {"actor": groups, "critic": groups}}


RND = {
    "weight": 1.0,
    "num_outputs": 4,
    "predictor_hidden_dims": [8],
    "target_hidden_dims": [8],
    "state_normalization": True,
    "reward_normalization": True,
}
KINDS = {
    "perceptrons": settings(obs_normalization=True),
    "log_std": settings(distribution={"std_type": "log"}),
    "beta": settings(distribution={"class_name": "BetaDistribution"}),
    "spread of the state": settings(
        distribution={"class_name": "HeteroscedasticGaussianDistribution"}
    ),
    "gru": settings("RNNModel", rnn_type="gru", rnn_hidden_dim=6, obs_normalization=True),
    "lstm": settings("RNNModel", rnn_hidden_dim=6, rnn_num_layers=2),
    "gru and perceptron": settings(
        "RNNModel",
        rnn_type="gru",
        rnn_hidden_dim=6,
        critic={"class_name": "MLPModel", "hidden_dims": [8]},
    ),
    "images": of_images(),
    "shared images": of_images(share_cnn_encoders=True),
    "mirror loss": settings(algorithm=symmetry(use_mirror_loss=True)),
    "augmented": settings(algorithm=symmetry(use_data_augmentation=True)),
    "both": settings(algorithm=symmetry(use_data_augmentation=True, use_mirror_loss=True)),
    "novelty": settings(algorithm={"rnd_cfg": RND, "normalize_advantage_per_mini_batch": True}),
}


def runner(config, env=None, **algorithm):
    torch.manual_seed(1)
    config = copy.deepcopy(config)
    config["algorithm"] |= algorithm
    return OnPolicyRunner(env or Noise(), config, log_dir=None, device="cpu")


def weights(made):
    parts = [made.alg.actor, made.alg.critic] + ([made.alg.rnd.predictor] if made.alg.rnd else [])
    return torch.cat([v.flatten().double() for m in parts for v in m.state_dict().values()])


def learned(made, iterations=2):
    for seed in range(iterations):  # rsl_rl draws actions, which it does not use, in each update
        torch.manual_seed(seed)
        made.learn(1)
    return weights(made)


@pytest.mark.filterwarnings("ignore:optimizer contains:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_rules_are_given_the_loss_of_rsl_rl(kind):
    """Per sample and by backpropagation it moves the weights as rsl_rl's own `update` does."""
    theirs = runner(KINDS[kind])
    ours = runner(KINDS[kind], class_name=OURS, rule="np")
    ours.alg.rule = learning_rule("bp")
    ours.alg.update = ours.alg._learn
    # Beta's samples are drawn by rejection, so the last bit of a weight changes those after it.
    updates = 1 if kind == "beta" else 2
    expected = learned(theirs, updates)
    torch.testing.assert_close(learned(ours, updates), expected, rtol=1e-3, atol=2e-5)
    assert ours.alg.learning_rate == pytest.approx(theirs.alg.learning_rate)
    std = ours.alg.get_policy().output_std.mean()
    torch.testing.assert_close(std, theirs.alg.get_policy().output_std.mean())


@pytest.mark.parametrize("kind", ["perceptrons", "gru"])
def test_bp_is_rsl_rl_to_the_last_bit(kind):
    config = KINDS[kind] | {"obs_groups": {"actor": ["policy"], "critic": ["policy"]}}
    made = [
        runner(config, RunnerEnv("nprobot/Quadruped-v0", 4, seed=0), **algorithm)
        for algorithm in ({}, {"class_name": OURS, "rule": "bp"})
    ]
    theirs, ours = map(learned, made)
    assert torch.equal(theirs, ours)
    assert made[1].alg.rule.backward_passes == 2 * 2 * 2 * 40


@pytest.mark.parametrize("kind", [*KINDS])
def test_no_backward_pass_runs_and_gradients_are_those_of_bp(kind, monkeypatch):
    """One update with many directions; the step is in SGD's, so it is the gradient."""
    steps = {}
    with monkeypatch.context() as patch:
        for rule, cfg in (("bp", {}), ("np+feedback", {"samples": 200, "sigma": 1e-3})):
            made = runner(
                KINDS[kind],
                class_name=OURS,
                rule=rule,
                rule_cfg=cfg,
                optimizer="sgd",
                schedule="fixed",
                num_learning_epochs=1,
                num_mini_batches=1,
                max_grad_norm=1e9,
            )
            before = weights(made)
            steps[rule] = learned(made, 1) - before
            patch.setattr(torch.Tensor, "backward", refuse)
            patch.setattr(torch.autograd, "backward", refuse)
            if not made.alg.actor.is_recurrent:  # what has no weights in gates is differentiated
                patch.setattr(torch.autograd, "grad", refuse)
    cosine = torch.cosine_similarity(*steps.values(), dim=0)
    assert cosine > 0.95, cosine


def refuse(*args, **kwargs):
    raise AssertionError("a backward pass")


@pytest.mark.parametrize("rule", ["np+feedback", "danp"])
def test_a_checkpoint_continues_bit_for_bit_and_one_of_rsl_rl_will_do(rule, tmp_path):
    config = settings(obs_normalization=True)
    made = runner(config, class_name=OURS, rule=rule)
    learned(made, 1)
    made.save(str(tmp_path / "model.pt"))
    again = runner(config, class_name=OURS, rule=rule)
    again.load(str(tmp_path / "model.pt"))
    made.env, again.env = Noise(), Noise()
    assert torch.equal(learned(made, 1), learned(again, 1))
    plain = runner(config)
    plain.save(str(tmp_path / "plain.pt"))
    again.load(str(tmp_path / "plain.pt"))
    observations = again.env.get_observations()
    torch.testing.assert_close(again.alg.actor(observations), plain.alg.actor(observations))
    again.export_policy_to_jit(str(tmp_path))
    exported = torch.jit.load(str(tmp_path / "policy.pt"))
    assert exported(observations["policy"]).shape == (6, 3)


class Residual(MLPModel):
    def forward(self, obs, **options):
        return super().forward(obs, **options) + 1


def test_what_cannot_learn_is_refused_when_the_runner_is_made():
    with pytest.raises(RuleError, match="feedbak"):
        runner(settings(), class_name=OURS, rule="np+feedbak")
    with pytest.raises(RuleError, match="bfloat16"):
        runner(settings(), class_name=OURS, use_mixed_precision=True)
    with pytest.raises(ArchitectureError, match="Residual"):
        runner(settings(Residual), class_name=OURS)
    config = of_images(share_cnn_encoders=True, **symmetry(use_mirror_loss=True))
    with pytest.warns(UserWarning, match="duplicate"):
        made = runner(config, class_name=OURS)
    with pytest.raises(RuleError, match="use_mirror_loss"):
        learned(made, 1)


def test_a_robot_is_an_environment_of_rsl_rl():
    env = RunnerEnv("nprobot/Quadruped-v0", 3, seed=1)
    same = gymnasium.make_vec("nprobot/Quadruped-v0", 3, vectorization_mode="vector_entry_point")
    observations, _ = same.reset(seed=1)
    env.episode_length_buf = torch.tensor([0, 5, env.max_episode_length - 1])
    same.steps[:] = [0, 5, env.max_episode_length - 1]
    for _ in range(3):
        seen = env.get_observations()["policy"].numpy()
        np.testing.assert_array_equal(seen, observations.astype(np.float32))
        seen, reward, done, extras = env.step(3 * torch.ones(3, 12))
        observations, expected, terminated, truncated, _ = same.step(np.ones((3, 12), np.float32))
        np.testing.assert_array_equal(reward, expected.astype(np.float32))
        assert done.tolist() == (terminated | truncated).tolist()
        assert extras["time_outs"].tolist() == (truncated & ~terminated).tolist()
        if done.any():
            assert all(isinstance(value, float) for value in extras["log"].values())
    assert env.episode_length_buf.tolist() == [3, 8, 2]
    with pytest.raises(ConfigError, match="SAME_STEP"):
        RunnerEnv(gymnasium.make_vec("Pendulum-v1", 2))
