"""Many arms at once do what one arm with the same seed does, to the last bit."""

import gymnasium
import numpy as np
import pytest

from nprobot.envs.arm_vector import ArmReachVectorEnv, ArmTrackVectorEnv, ArmVectorEnv
from nprobot.errors import ActuatorError, ConfigError

REACH, TRACK = "nprobot/ArmReach-v0", "nprobot/ArmTrack-v0"


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [
        (REACH, {"max_episode_steps": 7}),
        (REACH, {"normalize_actions": False, "gravity_compensation": False, "payload": 1.0}),
        (TRACK, {"duration": 0.05}),
        (TRACK, {"control": "torque", "lookahead": 3, "motion": "rhythmic", "duration": 0.1}),
    ],
)
def test_rows_are_those_of_single_arms(env_id, arguments):
    count, ended = 5, 0
    many = gymnasium.make_vec(env_id, count, threads=1, **arguments)
    assert isinstance(many, ArmVectorEnv)
    ones = [gymnasium.make(env_id, **arguments) for _ in range(count)]
    assert many.single_observation_space == ones[0].observation_space
    assert many.single_action_space == ones[0].action_space
    first = np.stack([env.reset(seed=3 + number)[0] for number, env in enumerate(ones)])
    np.testing.assert_array_equal(many.reset(seed=3)[0], first)
    generator = np.random.default_rng(0)
    for _ in range(18):
        actions = 0.3 * generator.uniform(-1, 1, (count, 7))
        observations, rewards, terminated, truncated, info = many.step(actions)
        for number, env in enumerate(ones):
            observation, reward, *over, told = env.step(actions[number])
            assert (rewards[number], terminated[number], truncated[number]) == (reward, *over)
            for name, value in told.items():
                np.testing.assert_array_equal(info[name][number], value)
            if any(over):
                ended += 1
                np.testing.assert_array_equal(info["final_obs"][number], observation)
                np.testing.assert_array_equal(info["final_info"][name][number], value)
                observation = env.reset()[0]
            np.testing.assert_array_equal(observations[number], observation)
    assert ended or env_id == REACH


def test_threads_change_nothing():
    seen = []
    for threads in (1, 2):
        env = ArmReachVectorEnv(8, threads=threads)
        assert env.threads == threads
        env.reset(seed=0)
        seen.append([env.step(np.full((8, 7), 0.1))[0] for _ in range(5)])
        env.close()
    np.testing.assert_array_equal(*seen)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="many arms are not drawn"):
        ArmTrackVectorEnv(2, render_mode="rgb_array")
    env = ArmReachVectorEnv(2)
    with pytest.raises(ConfigError, match="3 seeds were given for 2 arms"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ConfigError, match="no options of reset; got payload"):
        env.reset(options={"payload": 1.0})
    env.reset(seed=0)
    with pytest.raises(ActuatorError, match="shape"):
        env.step(np.zeros(7))
    assert ArmReachVectorEnv.objection(payload=1.0, max_episode_steps=5) is None
    assert "width" in ArmReachVectorEnv.objection(width=32)
