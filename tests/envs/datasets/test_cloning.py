"""Behaviour cloning rows are what the policy saw and did, from rollouts and from Minari."""

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from stable_baselines3 import PPO

from nprobot.envs import datasets
from nprobot.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
#: Minari's storage format that needs no package beyond this project's.
FORMAT = "arrow"


class Proportional:
    """A policy that can be recomputed from its observations; it counts its own episodes."""

    def __init__(self, env):
        self.space = env.action_space
        self.starts = 0

    def act(self, observation):
        pull = np.resize(observation, self.space.shape)
        return np.clip(pull, self.space.low, self.space.high).astype(np.float32)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert (state is None) == bool(episode_start[0])
        self.starts += int(episode_start[0])
        return self.act(observation), (0 if state is None else state) + 1


@pytest.fixture
def reacher():
    env = gymnasium.make("Reacher-v5")
    yield env
    env.close()


def test_rows_are_observations_and_the_actions_taken_split_by_episode(reacher):
    policy = Proportional(reacher)
    data = datasets.from_policy(policy, reacher, rows=260, seed=3)
    assert policy.starts == 6 and data.meta["episodes"] == 6
    assert sum(map(len, data.splits.values())) == 300
    for split in data.splits.values():
        expected = np.array([policy.act(row) for row in split.inputs])
        assert np.allclose(split.targets, expected)
        assert (np.bincount(split.trajectory)[np.unique(split.trajectory)] == 50).all()
    labels = [set(s.trajectory.tolist()) for s in data.splits.values()]
    assert not (labels[0] & labels[1] or labels[0] & labels[2] or labels[1] & labels[2])
    assert data.meta["mean_return"] < 0
    assert data.target_names == ("action0", "action1")


def test_same_seed_same_rows(reacher):
    policy = Proportional(reacher)
    first, again, other = (
        datasets.from_policy(policy, reacher, rows=150, seed=s) for s in (1, 1, 2)
    )
    assert np.array_equal(first.train.inputs, again.train.inputs)
    assert not np.array_equal(first.train.inputs, other.train.inputs)


def test_an_sb3_algorithm_can_be_cloned_by_environment_id():
    model = PPO("MlpPolicy", "Pendulum-v1", n_steps=64, seed=0, device="cpu")
    data = datasets.from_policy(model, "Pendulum-v1", rows=600)
    action, _ = model.predict(data.test.inputs, deterministic=True)
    assert np.allclose(data.test.targets, action, atol=1e-5)


def test_preprocessing_is_what_the_policy_sees_not_what_is_recorded(reacher):
    policy = Proportional(reacher)
    data = datasets.from_policy(policy, reacher, rows=150, preprocess=lambda o: 0 * o)
    assert np.abs(data.train.targets).max() == 0
    assert np.abs(data.train.inputs).max() > 0.1


def test_discrete_actions_become_labels():
    class Right:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.array(int(observation[2] > 0)), None

    data = datasets.from_policy(Right(), "CartPole-v1", rows=200)
    assert data.classes == 2
    assert np.array_equal(data.train.targets, (data.train.inputs[:, 2] > 0).astype(int))


def test_cloning_that_cannot_work_is_refused(reacher):
    with pytest.raises(ConfigError, match="predict"):
        datasets.from_policy(object(), reacher)
    with pytest.raises(ConfigError, match="rows"):
        datasets.from_policy(Proportional(reacher), reacher, rows=0)
    with pytest.raises(ConfigError, match="NoSuch"):
        datasets.from_policy(Proportional(reacher), "NoSuch-v0")
    with pytest.raises(DataError, match="at least three"):
        datasets.from_policy(Proportional(reacher), reacher, rows=60)


class Grab(gymnasium.ObservationWrapper):
    """A dictionary observation, as goal-conditioned robots have."""

    def __init__(self, env):
        super().__init__(env)
        low, high = env.observation_space.low, env.observation_space.high
        parts = {"joints": slice(4), "rest": slice(4, None)}
        self.observation_space = spaces.Dict(
            {
                name: spaces.Box(low[part], high[part], dtype=low.dtype)
                for name, part in parts.items()
            }
        )

    def observation(self, observation):
        return {"joints": observation[:4], "rest": observation[4:]}


@pytest.fixture
def minari_folder(tmp_path, monkeypatch):
    """A small data set in Minari's format, made here."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def record(wrap=lambda env: env, episodes=4, name="reacher/random-v0"):
        env = wrap(gymnasium.make("Reacher-v5", max_episode_steps=20))
        env.action_space.seed(0)
        buffers = []
        for episode in range(episodes):
            observations, actions, rewards = [env.reset(seed=episode)[0]], [], []
            while len(actions) < 20:
                actions.append(env.action_space.sample())
                observation, reward, *_ = env.step(actions[-1])
                observations.append(observation)
                rewards.append(float(reward))
            if isinstance(observations[0], dict):
                keys = observations[0]
                observations = {key: np.stack([o[key] for o in observations]) for key in keys}
            buffers.append(
                EpisodeBuffer(
                    id=episode,
                    observations=observations,
                    actions=actions,
                    rewards=rewards,
                    terminations=[False] * 20,
                    truncations=[False] * 19 + [True],
                )
            )
        minari.create_dataset_from_buffers(
            name, buffers, env=env, algorithm_name="random", data_format=FORMAT
        )
        env.close()
        return tmp_path / name

    return record


def test_minari_data_on_disk_is_read_by_folder_and_by_id(minari_folder):
    folder = minari_folder()
    by_folder = datasets.from_minari(folder)
    by_id = datasets.from_minari("reacher/random-v0")
    assert sum(map(len, by_folder.splits.values())) == 80
    assert np.array_equal(by_folder.train.inputs, by_id.train.inputs)
    assert "reacher/random-v0" in by_folder.meta["task"]
    episodes = {e.id: e for e in minari.load_dataset("reacher/random-v0").iterate_episodes()}
    for split in by_folder.splits.values():
        number = int(split.trajectory[0])
        rows = split.trajectory == number
        assert np.allclose(split.inputs[rows], episodes[number].observations[:-1])
        assert np.allclose(split.targets[rows], episodes[number].actions)


def test_minari_dictionaries_are_flattened(minari_folder):
    data = datasets.from_minari(minari_folder(Grab))
    plain = datasets.from_minari(minari_folder(name="reacher/plain-v0"))
    assert np.array_equal(data.train.inputs, plain.train.inputs)
    assert np.array_equal(data.train.targets, plain.train.targets)


def test_minari_data_that_cannot_be_used_is_refused(minari_folder, tmp_path):
    with pytest.raises(DataError, match="no readable Minari"):
        datasets.from_minari(tmp_path / "nothing")
    folder = minari_folder(episodes=2)
    with pytest.raises(DataError, match="the data has 2"):
        datasets.from_minari(folder)
    (folder / "data" / "metadata.json").write_text("{")
    with pytest.raises(DataError, match="no readable Minari"):
        datasets.from_minari(folder)
