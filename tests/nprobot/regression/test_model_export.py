"""`nprobot.export`: from a model in Python to a policy folder that deploys."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import stable_baselines3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import nprobot
from nprobot.errors import ArchitectureError, EnvironmentUnavailableError, ExistsError
from nprobot.training.evaluation import evaluate

SMALL = {"device": "cpu", "seed": 0}


def learned(algorithm=nprobot.PPO, env=None, **more):
    steps = {"n_steps": 64} if issubclass(algorithm, stable_baselines3.PPO) else {}
    env = make_vec_env("InvertedPendulum-v5", 1, seed=0) if env is None else env
    return algorithm("MlpPolicy", env, **SMALL, **steps, **more).learn(64)


@pytest.mark.parametrize("algorithm", [nprobot.PPO, nprobot.SAC, nprobot.NRL])
def test_a_model_becomes_a_folder_that_acts_alike(algorithm, tmp_path):
    env = VecNormalize(make_vec_env("InvertedPendulum-v5", 1, seed=0, env_kwargs={"frame_skip": 2}))
    more = {"node_noise": 0.0} if algorithm is nprobot.NRL else {}
    model = learned(algorithm, env, rule="danp", **more)
    made = nprobot.export(model, tmp_path / "pendulum", episodes=3, licence="MIT")
    files = {file.name for file in made.folder.iterdir()}
    assert files == {"README.md", "policy.json", "policy.safetensors"}
    policy = nprobot.policies.load(tmp_path / "pendulum")
    observations = np.random.default_rng(0).normal(0, 1, (20, 4))
    actions, _ = model.predict(env.normalize_obs(observations), deterministic=True)
    np.testing.assert_allclose(policy.predict(observations), actions, atol=1e-5)
    assert (policy.task.id, dict(policy.task.kwargs)) == ("InvertedPendulum-v5", {"frame_skip": 2})
    assert policy.task.control_rate == 25
    assert policy.provenance["rule"] == "danp"
    assert policy.provenance["evaluation"]["returns"] == list(made.evaluation.returns)
    assert evaluate(policy, episodes=3).returns == made.evaluation.returns
    assert "nprobot deploy pendulum" in (made.folder / "README.md").read_text()


def test_a_plain_model_and_an_onnx_file(tmp_path):
    made = nprobot.export(learned(stable_baselines3.PPO), tmp_path / "p", onnx=True, episodes=0)
    assert made.onnx <= 1e-5
    assert made.evaluation is None
    assert nprobot.policies.load(made.folder).provenance["rule"] == "bp"


def test_squashed_gsde_acts_alike(tmp_path):
    model = learned(use_sde=True, policy_kwargs={"squash_output": True})
    made = nprobot.export(model, tmp_path / "p", episodes=0)
    observations = np.random.default_rng(0).normal(0, 1, (20, 4)).astype(np.float32)
    actions, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(made.policy.predict(observations), actions, atol=1e-5)


class Unregistered(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (4,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, True, {}


def test_what_cannot_be_exported_says_so_and_leaves_nothing(tmp_path):
    model = learned(env=Unregistered())
    made = nprobot.export(model, tmp_path / "p")
    assert made.policy.task is None
    with pytest.raises(ExistsError):
        nprobot.export(model, tmp_path / "p")
    with pytest.raises(EnvironmentUnavailableError, match="does not fit Reacher-v5"):
        nprobot.export(model, tmp_path / "q", env="Reacher-v5")
    flat = gymnasium.wrappers.TimeAwareObservation(gymnasium.make("InvertedPendulum-v5"))
    with pytest.raises(EnvironmentUnavailableError, match="does not fit"):
        nprobot.export(learned(env=DummyVecEnv([lambda: flat])), tmp_path / "q")
    with pytest.raises(ArchitectureError, match="Hardtanh"):
        nprobot.export(learned(nprobot.SAC, use_sde=True), tmp_path / "q")
    assert not (tmp_path / "q").exists()
