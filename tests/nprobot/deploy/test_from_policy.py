"""From a model to a policy folder and back: the same actions, and it learns further."""

import gymnasium
import numpy as np
import pytest
import stable_baselines3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import nprobot
from nprobot.errors import ArchitectureError, UnknownNameError
from nprobot.policies.files.from_sb3 import export_policy
from nprobot.training.from_policy import write_network

PENDULUM = "InvertedPendulum-v5"


def trained(algo, tmp_path, *, scaled=False, **arguments):
    env = DummyVecEnv([lambda: gymnasium.make(PENDULUM)])
    env = VecNormalize(env) if scaled else env
    network = {"net_arch": [8, 6]}
    model = getattr(nprobot, algo)("MlpPolicy", env, policy_kwargs=network, seed=0, **arguments)
    model.learn(256)
    nprobot.export(model, tmp_path / "policy", env=PENDULUM, episodes=0)
    return model, tmp_path / "policy"


def actions(model, observations):
    """Of raw observations, normaliser included, without exploration and without chip noise."""
    return export_policy(model).predict(observations)


OBSERVATIONS = np.random.default_rng(0).normal(size=(20, 4))


@pytest.mark.parametrize(
    ("algo", "scaled", "arguments"),
    [
        ("PPO", True, {"n_steps": 128}),
        ("PPO", False, {"n_steps": 128, "rule": "danp"}),
        ("SAC", False, {"learning_starts": 50}),
        ("TD3", True, {"learning_starts": 50}),
        ("NRL", False, {}),
    ],
)
def test_acts_as_before_and_learns_further(algo, scaled, arguments, tmp_path):
    model, folder = trained(algo, tmp_path, scaled=scaled, **arguments)
    again = nprobot.from_policy(folder, seed=1, **arguments)
    assert type(again) is type(model)
    before = actions(again, OBSERVATIONS)
    np.testing.assert_allclose(before, actions(model, OBSERVATIONS), atol=1e-5)
    again.learn(256)
    assert not np.array_equal(actions(again, OBSERVATIONS), before)
    if algo != "NRL":  # SB3 has no such algorithm
        again.save(tmp_path / "model.zip")
        plain = getattr(stable_baselines3, algo).load(tmp_path / "model.zip")
        seen = again.get_vec_normalize_env()
        x = OBSERVATIONS if seen is None else seen.normalize_obs(OBSERVATIONS)
        expected = actions(again, OBSERVATIONS)
        given = plain.predict(x.astype(np.float32), deterministic=True)[0]
        np.testing.assert_allclose(given, expected, atol=1e-5)


def test_between_the_units_of_two_algorithms(tmp_path):
    """PPO's actions are in the robot's units, NRL's in half ranges: ±3 here."""
    model, folder = trained("PPO", tmp_path, n_steps=128)
    relative = nprobot.from_policy(folder, algo="nrl")
    np.testing.assert_allclose(
        actions(relative, OBSERVATIONS), actions(model, OBSERVATIONS), atol=1e-5
    )
    nprobot.export(relative, tmp_path / "relative", env=PENDULUM, episodes=0)
    back = nprobot.from_policy(tmp_path / "relative", algo="ppo")
    np.testing.assert_allclose(actions(back, OBSERVATIONS), actions(model, OBSERVATIONS), atol=1e-5)


def test_a_policy_of_the_zoo_keeps_its_return():
    model = nprobot.from_policy("zoo:InvertedPendulum", rule="bp")
    env, total = model.get_env(), 0.0
    x, done = env.reset(), [False]
    while not done[0]:
        x, _, done, infos = env.step(model.predict(x, deterministic=True)[0])
    total = infos[0]["episode"]["r"]
    assert total == 1000


def test_what_cannot_be_is_refused(tmp_path):
    _, folder = trained("SAC", tmp_path, learning_starts=50)
    with pytest.raises(ArchitectureError, match="SAC and TD3"):
        nprobot.from_policy(folder, algo="ppo")
    with pytest.raises(UnknownNameError, match="algorithm"):
        nprobot.from_policy(folder, algo="pppo")
    scaled = VecNormalize(DummyVecEnv([lambda: gymnasium.make(PENDULUM)]))
    with pytest.raises(ArchitectureError, match="plain observations"):
        nprobot.from_policy(folder, scaled)
    with pytest.raises(ArchitectureError, match="layers are"):
        nprobot.from_policy(folder, policy_kwargs={"net_arch": [4]})


class Bits(gymnasium.Env):
    """Three switches, and what they do does not matter."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,))
    action_space = gymnasium.spaces.MultiBinary(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


def test_choices_of_two_become_bits_again():
    one, other = (nprobot.PPO("MlpPolicy", Bits(), seed=seed, device="cpu") for seed in (0, 1))
    write_network(other, export_policy(one))
    before, after = one.policy.action_net, other.policy.action_net
    np.testing.assert_array_equal(after.weight.detach(), before.weight.detach())
    assert (actions(other, OBSERVATIONS) == actions(one, OBSERVATIONS)).all()
