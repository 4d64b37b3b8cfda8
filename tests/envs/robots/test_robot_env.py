"""`nprobot/Robot-v0` keeps gymnasium's contract, and does what its options say."""

import json
import pickle

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from nprobot.envs import NoisyActuators
from nprobot.envs.robots import load_task
from nprobot.envs.robots.domain_randomisation import _FIELDS
from nprobot.envs.robots.reward_terms import TERMS
from nprobot.envs.robots.robot_sensing import observe
from nprobot.envs.robots.robot_state import Memory, RobotState
from nprobot.errors import ActuatorError, UnknownNameError

WAYS = [
    ("quadruped", "velocity"),
    ("quadruped", "stand"),
    ("hopper", "velocity"),
    ("quadrotor", "hover"),
    ("arm", "reach"),
    ("arm", "track"),
]
STILL = {f"start.{n}_noise": 0.0 for n in ("joint", "velocity", "tilt", "speed")}


def roll(env, steps, seed=0, action=None):
    """Observations and rewards of a rollout; random actions by default."""
    env.action_space.seed(seed)
    seen, rewards = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        observation, reward, ended, cut, _ = env.step(
            env.action_space.sample() if action is None else action
        )
        seen.append(observation)
        rewards.append(reward)
        if ended or cut:
            break
    return np.array(seen), np.array(rewards)


@pytest.mark.parametrize(("model", "task"), WAYS)
def test_gymnasium_is_content(robot, model, task):
    env = robot(model, task, duration=0.4)
    check_env(env.unwrapped, skip_render_check=True)
    one, other = roll(env, 30), roll(robot(model, task, duration=0.4), 30)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    copy = pickle.loads(pickle.dumps(env.unwrapped))
    assert all(np.array_equal(a, b) for a, b in zip(one, roll(copy, 30), strict=True))


@pytest.mark.parametrize(("model", "task"), WAYS)
def test_environments_of_one_file_share_one_model(robot, model, task):
    one, other = robot(model, task).unwrapped, robot(model, task).unwrapped
    assert one.model is other.model
    assert one.data is not other.data
    assert robot(model, task, randomise=True).unwrapped.model is not one.model


def test_actions_are_what_the_table_says(odd, robot):
    env = robot(odd("crab"), "stand", **STILL).unwrapped
    names = [a.name for a in env.layout.robot.actuators]

    def commands(value):
        env.reset(seed=0)
        env.step(np.full(5, value))
        return dict(zip(names, env.data.ctrl.tolist(), strict=True))

    # Servos 0.3 rad around home, those of tendons over their range; motors their whole force.
    assert commands(1.0) == pytest.approx(
        {"joint range": 0.3, "no range": 0.3, "force range": 4, "own range": 3, "tendon": 0.5}
    )
    assert commands(-1.0) == pytest.approx({n: -c for n, c in commands(1.0).items()})
    assert commands(5.0) == commands(1.0)
    for bad in (np.zeros(4), np.full(5, np.nan)):
        with pytest.raises(ActuatorError, match="5 finite numbers"):
            env.step(bad)


def test_an_action_of_0_hovers(robot):
    env = robot("quadrotor", "hover", **STILL).unwrapped
    env.reset(seed=0)
    assert env._built.actions(np.zeros(4)) == pytest.approx(np.full(4, 0.5 * 9.81 / 4))
    hover = 0.5 * 9.81 / 4
    assert env._built.actions(np.ones(4)) == pytest.approx(hover + 0.4 * (3.72 - hover))
    assert env._built.actions(-np.ones(4)) == pytest.approx(0.6 * hover)
    for _ in range(50):
        env.step(np.zeros(4))
    assert env.data.qpos[:3] == pytest.approx([0, 0, 1], abs=1e-6)


def test_a_simple_controller_flies_to_the_goal(robot):
    """Position to tilt to rotors, from the observation alone: the task can be solved."""
    env = robot("quadrotor", "hover")
    for seed in range(3):
        seen, _ = env.reset(seed=seed)
        rewards, ended = [], False
        while not ended:
            error, velocity, rate, gravity = np.split(seen[:12], 4)
            wanted = np.clip(2.0 * error - 2.0 * velocity, -1.5, 1.5)
            pitch, roll = gravity[0], -gravity[1]
            about_y = 0.75 * (wanted[0] / 9.81 - pitch) - 0.15 * rate[1]
            about_x = 0.75 * (-wanted[1] / 9.81 - roll) - 0.15 * rate[0]
            lift, about_z = 0.75 * wanted[2], -0.25 * rate[2] - 0.25 * seen[13]
            action = lift + np.array(
                [-about_y - about_z, about_x + about_z, about_y - about_z, -about_x + about_z]
            )
            seen, reward, fell, cut, info = env.step(action)
            rewards.append(reward)
            ended = fell or cut
        assert len(rewards) == 400
        assert np.mean(rewards) > 0.8
        assert info["is_success"]


def test_motors_can_be_made_servos_that_hold_the_robot(odd, robot):
    env = robot(odd("crab"), "stand", **{"actions.servo": True, **STILL}).unwrapped
    assert [a.kind for a in env.layout.robot.actuators] == ["position"] * 5
    index = [a.name for a in env.layout.robot.actuators].index("force range")
    # Half as much again as its 4 N·m · gear 2 a radian, at the joint; no more force than before.
    assert -env.model.actuator_biasprm[index, 1] * 2**2 == pytest.approx(1.5 * 8)
    assert env.model.actuator_forcerange[index].tolist() == [-4, 4]
    env.reset(seed=0)
    for _ in range(50):
        env.step(np.zeros(5))
    assert not env._state().fallen


def test_an_arm_that_carries_its_weight_stays_where_it_is(robot):
    floating = robot("arm", "reach", **STILL).unwrapped
    heavy = robot("arm", "reach", **{"actions.gravity_compensation": False, **STILL}).unwrapped
    moved = []
    for env in (floating, heavy):
        env.reset(seed=0)
        for _ in range(25):
            env.step(np.zeros(7))
        moved.append(np.abs(env._state().joint_positions).max())
    assert moved[0] < 1e-3 < 0.05 < moved[1]


def test_states_agree_with_the_simulator(robot):
    env = robot("quadruped", "velocity", **{"start.tilt_noise": 0.3, "start.speed_noise": 1.0})
    env.reset(seed=3)
    env = env.unwrapped
    s, data = env._state(), env.data
    rotation = data.body("trunk").xmat.reshape(3, 3)
    assert s.gravity == pytest.approx(rotation.T @ [0, 0, -1])
    assert s.linear_velocity == pytest.approx(rotation.T @ data.qvel[:3])
    assert s.angular_velocity == pytest.approx(data.qvel[3:6])
    assert s.rotate_to_base(np.array([1.0, 2, 3])) == pytest.approx(rotation.T @ [1, 2, 3])
    assert s.heading == pytest.approx(np.arctan2(rotation[1, 0], rotation[0, 0]))
    assert s.height == pytest.approx(data.qpos[2])
    assert s.joint_angles == pytest.approx(data.qpos[7:])


def test_terms_are_what_they_say(robot):
    env = robot("quadruped", "velocity", **STILL).unwrapped
    env.reset(seed=0, options={"command": [0.5, 0.0, 0.0]})
    s = env._state()
    value = {name: float(term(s)) for name, term in TERMS.items()}
    assert value["velocity"] == pytest.approx(0)  # it stands, and should walk
    assert value["turn"] == value["upright"] == value["height"] == value["alive"] == 1
    assert value["pose"] == value["tilt"] == value["action_rate"] == value["fall"] == 0
    env.command[:] = 0
    assert float(TERMS["velocity"](env._state())) == pytest.approx(1)
    # Half the wanted speed is worth three quarters, half of it the wrong way −1 and no less.
    env.data.qvel[0] = 0.25
    mujoco.mj_forward(env.model, env.data)
    env.command[0] = 0.5
    assert float(TERMS["velocity"](env._state())) == pytest.approx(0.75)
    env.command[0] = -0.5
    assert float(TERMS["velocity"](env._state())) == -1
    env._memory.act(np.full(12, 0.5))
    s = env._state()
    assert TERMS["action"](s) == TERMS["action_rate"](s) == pytest.approx(0.25)
    power = np.abs(s.actuator_force * s.actuator_velocity).sum()
    assert TERMS["energy"](s) == pytest.approx(power / (11.96 * 9.81))


def test_feet_that_come_down_are_worth_their_time_in_the_air(robot):
    memory = Memory.fresh(robot("quadruped", "velocity").unwrapped.layout)
    memory.air_time[:] = [0.28, 0.0, 0.1, 0.0]
    memory.tread(np.array([1.0, 1.0, 0.0, 0.0]), 0.02)
    assert memory.landed == pytest.approx([0.3, 0, 0, 0])
    assert memory.air_time == pytest.approx([0, 0, 0.12, 0.02])


@pytest.mark.parametrize(("model", "task"), WAYS)
def test_a_batch_is_computed_as_its_robots_are(robot, model, task):
    """Every term and part has the batch's leading axes."""
    singles, layout = [], None
    for seed in range(3):
        env = robot(model, task).unwrapped
        env.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(3):
            env.step(env.action_space.sample())
        singles.append(env._state())
        layout = env.layout
    stacked = {
        name: np.stack([np.asarray(getattr(s.memory, name)) for s in singles])
        for name in Memory.__dataclass_fields__
    }
    fields = ("qpos", "qvel", "sensordata", "actuator_force", "actuator_velocity")
    batch = RobotState(
        layout, Memory(**stacked), *(np.stack([getattr(s, f) for s in singles]) for f in fields)
    )
    names = (*load_task(task).observations, "contacts", "height", "ground", "friction")
    assert observe(batch, names) == pytest.approx(np.stack([observe(s, names) for s in singles]))
    for name, term in TERMS.items():
        if name in ("tracking",) and task != "track":
            continue
        expected = np.array([float(term(s)) for s in singles])
        assert np.shape(term(batch)) == (3,), name
        assert term(batch) == pytest.approx(expected), name
    assert batch.fallen.tolist() == [bool(s.fallen) for s in singles]


def test_the_reward_is_the_sum_of_its_terms_and_never_below_its_floor(robot):
    env = robot("quadruped", "velocity", duration=0.6, floor=-100.0)
    _, rewards = roll(env, 30, seed=1)
    env.reset(seed=1)
    env.action_space.seed(1)
    info = {}
    while "reward_terms" not in info:
        *_, info = env.step(env.action_space.sample())
    assert sum(info["reward_terms"].values()) == pytest.approx(rewards.mean())
    assert info["is_success"] in (True, False)
    costly = robot("quadruped", "velocity", duration=0.6, **{"reward.energy": -1e3})
    assert roll(costly, 30)[1].min() == 0.0


def test_a_robot_that_falls_ends_its_episode(robot):
    env = robot("quadruped", "velocity")
    _, rewards = roll(env, 1000, action=np.tile([1.0, 1.0, -1.0, -1.0], 3))
    assert len(rewards) < 1000
    assert env.unwrapped._state().fallen


def test_success_ends_an_episode_where_that_is_asked_for(robot):
    settings = {"ends.on": ["success"], "ends.tolerance": 10.0, "ends.hold": 0.1}
    env = robot("arm", "reach", **settings, **{"reward.success": 5.0})
    _, rewards = roll(env, 200, action=np.zeros(7))
    assert len(rewards) == 5  # 0.1 s at 50 Hz
    assert rewards[-1] > 5 > rewards[-2]


def test_commands_can_be_written_and_are_then_kept(robot):
    env = robot("quadruped", "velocity", **{"command.every": 0.1})
    base = env.unwrapped
    kept = base.command
    assert list(base.command_ranges) == ["forward", "sideways", "turn"]
    low, high = np.array(list(base.command_ranges.values())).T
    env.reset(seed=0)
    drawn = set()
    for _ in range(20):
        observation, *_ = env.step(np.zeros(12))
        assert np.array_equal(observation[-3:], base.command)
        assert ((low <= base.command) & (base.command <= high)).all()
        drawn.add(tuple(base.command))
    assert len(drawn) > 2
    base.command[:] = [0.3, 0.0, -0.2]
    for _ in range(20):
        observation, *_ = env.step(np.zeros(12))
    assert observation[-3:].tolist() == [0.3, 0.0, -0.2]
    env.reset(seed=1)
    assert base.command.tolist() != [0.3, 0.0, -0.2]
    assert base.command is kept
    with pytest.raises(UnknownNameError, match="command"):
        env.reset(options={"comand": 1})


def test_history_and_privileged_parts_are_where_they_belong(robot):
    parts = {"observations": ["gravity", "last_action"], "history": 3}
    env = robot("quadruped", "velocity", **parts, privileged=["contacts", "height"])
    assert env.observation_space.shape == (3 * 15 + 5,)
    assert env.unwrapped.privileged_size == 5
    env.reset(seed=0)
    for value in (0.1, 0.2, 0.3):
        observation, *_ = env.step(np.full(12, value))
    assert [observation[15 * n + 3] for n in range(3)] == pytest.approx([0.3, 0.2, 0.1])
    assert observation[-1] == pytest.approx(env.unwrapped.data.qpos[2], abs=0.01)


def test_randomised_robots_differ_between_episodes_and_not_in_their_starts(robot):
    settings = {"randomise.sensor_noise": 0.0, "randomise.push": 0.0, "randomise.actuators": False}
    plain = robot("quadruped", "velocity")
    other = robot("quadruped", "velocity", randomise=True, **settings)
    shared = {f: np.array(getattr(plain.unwrapped.model, f)) for f in _FIELDS}
    masses = []
    for seed in range(3):
        start, _ = plain.reset(seed=seed)
        assert other.reset(seed=seed)[0] == pytest.approx(start)
        model = other.unwrapped.model
        masses.append(model.body_mass.sum())
        factors = model.body_mass[1:] / shared["body_mass"][1:]
        assert ((factors >= 0.85) & (factors <= 1.15)).all()
        servo = model.actuator_gainprm[:, 0] / -model.actuator_biasprm[:, 1]
        assert servo == pytest.approx(np.ones(12))  # targets mean what they meant
        assert np.ptp(model.geom_friction[:, 0] / shared["geom_friction"][:, 0]) < 1e-12
    assert len(set(masses)) == 3
    other.reset(seed=0)
    assert other.unwrapped.model.body_mass.sum() == masses[0]
    for field, values in shared.items():
        assert np.array_equal(getattr(plain.unwrapped.model, field), values), field


def test_pushes_push_and_sensors_are_noisy(robot):
    quiet = {"randomise.sensor_noise": 0.0, "randomise.actuators": False, "randomise": True}
    pushed = robot("quadruped", "velocity", **quiet, **{"randomise.push_every": 0.1})
    left_alone = robot("quadruped", "velocity", **quiet, **{"randomise.push": 0.0})
    velocities = []
    for env in (pushed, left_alone):
        env.reset(seed=0)
        for _ in range(5):
            before = env.unwrapped.data.qvel.copy()
            env.step(np.zeros(12))
        velocities.append((before, env.unwrapped.data.qvel.copy()))
    (before, after), (before_too, unmoved) = velocities
    assert np.array_equal(before, before_too)
    kick = after - unmoved
    assert 0.01 < np.abs(kick[:2]).max() <= 0.3
    assert np.abs(kick[2:]).max() == 0
    noisy = robot("quadruped", "stand", randomise=True, **STILL)
    starts = np.array([noisy.reset(seed=s)[0] for s in range(60)])
    assert starts[:, 6:8].std() == pytest.approx(0.02, rel=0.25)  # direction of gravity


def test_noisy_actuators_are_kept_from_the_observation(robot):
    env = NoisyActuators(robot("quadruped", "velocity"), "hard", seed=1)
    env.reset(seed=0)
    place = 33
    for value in (0.5, -0.25):
        observation, *_ = env.step(np.full(12, value, np.float32))
        assert observation[place : place + 12].tolist() == [value] * 12
    base = env.unwrapped
    assert base.executed_action is None
    assert base.data.ctrl == pytest.approx(base._built.actions(np.full(12, -0.25)))
    assert base.randomised_actuators is None
    randomised = robot("quadruped", "velocity", randomise=True).unwrapped
    assert [type(m).__name__ for m in randomised.randomised_actuators] == [
        *("RandomDelay", "Lag", "EpisodeBias", "WhiteNoise")
    ]


def test_curricula_move_on_with_success_and_back_with_failure(robot):
    env = robot("quadruped", "velocity", duration=0.1, **{"command.grow": True})
    base = env.unwrapped
    assert base.save_progress() == {"command": 0.3}
    for seed in range(3):  # it stands, as it is told
        env.reset(seed=seed, options={"command": [0, 0, 0]})
        for _ in range(5):
            *_, info = env.step(np.zeros(12))
    assert base.progress["command"] == pytest.approx(0.45)
    assert info["reward_terms"]["at_command"] == base.progress["command"]
    base.restore_progress({"command": 0.9})
    env.reset(seed=0, options={"command": [1, 0, 0]})
    for _ in range(5):
        env.step(np.zeros(12))
    assert base.progress["command"] == pytest.approx(0.85)
    env.reset(seed=0)
    low, high = np.array(list(base.command_ranges.values())).T
    assert (np.abs(base.command) <= 0.85 * np.maximum(-low, high)).all()


@pytest.mark.parametrize("kind", ["slopes", "steps", "rough", "mixed"])
def test_the_ground_is_where_the_robot_thinks_it_is(robot, kind):
    settings = {"terrain.kind": kind, "terrain.curriculum": False, **STILL}
    env = robot("quadruped", "velocity", **settings).unwrapped
    terrain = env.layout.terrain
    generator = np.random.default_rng(0)
    half = np.array(terrain.size) * 0.95
    places = generator.uniform(-half, half, (40, 2))
    heights = terrain.height(*places.T)
    # MuJoCo's triangles and bilinear interpolation differ within a cell.
    slope = np.abs(np.diff(terrain.heights, axis=0)).max() + np.abs(np.diff(terrain.heights)).max()
    env.reset(seed=0)
    for (x, y), height in zip(places, heights, strict=True):
        hit = np.zeros(1, np.int32)
        start = np.array([x, y, 5.0])
        down = mujoco.mj_ray(
            env.model,
            env.data,
            start,
            np.array([0.0, 0, -1]),
            None,
            1,
            env.model.body("trunk").id,
            hit,
        )
        assert 5.0 - down == pytest.approx(height, abs=0.5 * slope + 1e-6)
    assert terrain.heights.max() > 0.02
    for _ in range(25):
        env.step(np.zeros(12))
    assert not env._state().fallen
    assert env._state().contacts.sum() >= 2


def test_terrain_begins_flat_and_gets_harder(robot):
    env = robot("quadruped", "velocity", **{"terrain.kind": "steps"}).unwrapped
    env.reset(seed=0)
    flat = env.data.qpos[0]
    env.restore_progress({"terrain": 1.0})
    env.reset(seed=0)
    assert env.data.qpos[0] - flat == pytest.approx(4 * env.layout.terrain.patch)


def test_a_simulation_that_breaks_down_ends_the_episode_and_is_told(odd, robot):
    env = robot(odd("crab"), "stand")
    env.reset(seed=0)
    env.unwrapped.data.qvel[:] = 1e6
    *_, reward, ended, _, info = env.step(np.zeros(5))
    assert (reward, ended, info["reward_terms"]["unstable"]) == (0.0, True, 1.0)


def test_exact_feedforward_lets_any_arm_follow(odd, robot):
    """Servos and motors in one arm, a gear that turns round, a joint that nothing drives."""
    errors = {}
    for model in ("arm", odd("crane")):
        env = robot(model, "track", duration=1.5)
        for how in ("pd", "exact"):
            squares = []
            for seed in range(2):
                env.reset(seed=seed)
                ended = False
                while not ended:
                    action = (
                        env.unwrapped.exact_action()
                        if how == "exact"
                        else 0 * env.action_space.high
                    )
                    *_, ended, info = env.step(action)
                    squares.append(info["tracking_error"] ** 2)
            errors[model, how] = np.sqrt(np.mean(squares))
        assert errors[model, "exact"] < 0.2 * errors[model, "pd"]
    assert set(info) >= {"joint_error", "feedforward_torque", "feedback_torque"}


def test_a_task_file_holds_the_whole_task(robot, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('task = "velocity"\nduration = 3\n[reward]\nforward = 1\n')
    env = robot("hopper", str(file)).unwrapped
    assert json.loads(json.dumps(env.task.to_dict())) == load_task(env.task.to_toml()).to_dict() | {
        n: json.loads(json.dumps(v)) for n, v in env.task.to_dict().items()
    }
    assert env._episodes.length == 150
    assert gymnasium.make(env.spec or "nprobot/Robot-v0").unwrapped.metadata["render_fps"] == 50
