"""Many robots at once do what one robot with the same seed does, to the last bit."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from nprobot.envs.robots import RobotEnv, RobotVectorEnv
from nprobot.errors import ActuatorError, ConfigError, UnknownNameError

SHORT = {"duration": 0.5}
EVERYTHING = {
    **SHORT,
    **{"command.grow": True, "command.every": 0.1, "history": 3, "terrain.kind": "mixed"},
    **{"randomise": True, "randomise.push_every": 0.1, "privileged": ["friction", "height"]},
}
WAYS = [
    ("quadruped", "velocity", SHORT),
    ("quadruped", "velocity", EVERYTHING),
    ("quadruped", "stand", {"ends.tilt": 0.2}),
    ("hopper", "velocity", SHORT),
    ("biped", "velocity", SHORT),
    ("quadrotor", "hover", {}),
    ("arm", "reach", {**SHORT, "ends.on": ["success"], "ends.tolerance": 0.3, "ends.hold": 0.04}),
    ("arm", "track", SHORT),
]


@pytest.mark.parametrize(("model", "task", "settings"), WAYS)
def test_rows_are_those_of_single_robots(model, task, settings):
    count, ended = 5, 0
    many = RobotVectorEnv(count, model, task, threads=1, **settings)
    ones = [RobotEnv(model, task, **settings) for _ in range(count)]
    assert many.single_observation_space == ones[0].observation_space
    assert many.single_action_space == ones[0].action_space
    assert (many.dt, many.privileged_size) == (ones[0].dt, ones[0].privileged_size)
    first = np.stack([env.reset(seed=7 + number)[0] for number, env in enumerate(ones)])
    np.testing.assert_array_equal(many.reset(seed=7)[0], first)
    generator = np.random.default_rng(0)
    for _ in range(60):
        actions = generator.uniform(-1.1, 1.1, (count, *ones[0].action_space.shape))
        observations, rewards, terminated, truncated, info = many.step(actions)
        for number, env in enumerate(ones):
            observation, reward, *over, told = env.step(actions[number])
            assert (rewards[number], terminated[number], truncated[number]) == (reward, *over)
            if any(over):
                ended += 1
                np.testing.assert_array_equal(info["final_obs"][number], observation)
                last = info["final_info"]
                assert last["is_success"][number] == told["is_success"]
                for name, value in told["reward_terms"].items():
                    assert last["reward_terms"][name][number] == value
                observation = env.reset()[0]
            np.testing.assert_array_equal(observations[number], observation)
            np.testing.assert_array_equal(many.command[number], env.command)
    assert ended
    assert many.save_progress() == [env.save_progress() for env in ones]


def test_threads_and_company_change_nothing():
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 9, 12))
    seen = []
    for count, threads in ((9, 1), (9, 2), (4, 1)):
        env = RobotVectorEnv(count, "quadruped", threads=threads)
        assert env.threads == threads
        env.reset(seed=3)
        seen.append(np.stack([env.step(each[:count])[0] for each in actions]))
        env.close()
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0][:, :4], seen[2])


def test_a_robot_that_breaks_down_harms_no_other():
    ones = [RobotEnv("hopper") for _ in range(3)]
    many = RobotVectorEnv(3, "hopper", threads=1)
    many.reset(seed=0)
    for number, env in enumerate(ones):
        env.reset(seed=number)
    actions = np.zeros((3, many.single_action_space.shape[0]))
    for step in range(30):
        if step == 5:  # a speed at which MuJoCo goes back to the start
            ones[1].data.qvel[0] = many._simulation.qvel[1, 0] = 1e12
        _, rewards, terminated, _, info = many.step(actions)
        for number, env in enumerate(ones):
            _, reward, ended, cut, told = env.step(actions[number])
            assert (rewards[number], terminated[number]) == (reward, ended)
            if ended or cut:
                unstable = "unstable" in told["reward_terms"]
                assert unstable == (number == 1)
                assert info["final_info"]["reward_terms"]["_unstable"][1] == (number == 1)
                env.reset()
    assert ones[1].unstable


def test_commands_can_be_steered():
    env = RobotVectorEnv(2, "quadruped", threads=1)
    env.reset(seed=0, options={"command": [0.3, 0.0, 0.1]})
    assert env.command == pytest.approx(np.array([[0.3, 0.0, 0.1]] * 2))
    env.command[1] = [0.1, 0.0, 0.0]
    place = env._episodes.layout.task.observations.index("command")
    assert place == len(env.task.observations) - 1
    observations = env.step(np.zeros((2, 12)))[0]
    assert observations[:, -3:] == pytest.approx(np.array([[0.3, 0, 0.1], [0.1, 0, 0]]))


def test_gymnasium_makes_them():
    env = gymnasium.make_vec("nprobot/Quadrotor-v0", 3, duration=0.2)
    assert isinstance(env, RobotVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.observation_space.contains(env.reset(seed=1)[0])
    assert env.action_space.shape == (3, 4)
    again = env.reset(seed=[1, 2, 3])[0]
    np.testing.assert_array_equal(again, env.reset(seed=1)[0])
    assert not np.array_equal(again, env.reset()[0])


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="num_envs must be a whole number"):
        RobotVectorEnv(0)
    with pytest.raises(ConfigError, match="many robots are not drawn"):
        RobotVectorEnv(2, render_mode="rgb_array")
    with pytest.raises(UnknownNameError, match="rewards"):
        RobotVectorEnv(2, "quadruped", **{"rewards.energy": 1})
    env = RobotVectorEnv(2, "quadruped")
    with pytest.raises(ConfigError, match="3 seeds were given for 2 robots"):
        env.reset(seed=[1, 2, 3])
    env.reset(seed=0)
    with pytest.raises(ActuatorError, match="for each of 2 robots; got shape \\(12,\\)"):
        env.step(np.zeros(12))
    with pytest.raises(ActuatorError, match="NaN"):
        env.step(np.full((2, 12), np.nan))


def test_a_term_for_one_robot_is_refused(tmp_path, monkeypatch):
    (tmp_path / "one_robot_terms.py").write_text("def lean(s):\n    return s.gravity[0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = "one_robot_terms:lean"
    with pytest.raises(ConfigError, match=r"gives shape \(3,\) for 2 robots"):
        RobotVectorEnv(2, "quadruped", **{f"reward.{name}": 1.0})
    assert "one robot only" in RobotVectorEnv.objection(**{f"reward.{name}": 1.0})
    assert "noisy actuators" in RobotVectorEnv.objection(randomise=True)
    assert RobotVectorEnv.objection(**{"randomise": True, "randomise.actuators": False}) is None
    assert "width" in RobotVectorEnv.objection(width=64)


def test_a_thousand_quadrupeds_take_little_memory():
    """A model and a working place for all: what each adds is numbers of its own."""
    from pathlib import Path

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    before = resident()
    env = RobotVectorEnv(1024, "quadruped", threads=2)
    env.reset(seed=0)
    env.step(np.zeros((1024, 12)))
    assert resident() - before < 100
