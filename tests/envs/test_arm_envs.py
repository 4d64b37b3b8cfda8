"""ArmReach and ArmTrack keep gymnasium's and SB3's contracts, and do their physics."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import nprobot.envs  # noqa: F401 - registers the environments
from nprobot.envs.arm import TORQUE_LIMITS, WORKING_LIMITS
from nprobot.envs.arm_track import ArmTrackEnv
from nprobot.errors import ActuatorError, ConfigError

REACH, TRACK = "nprobot/ArmReach-v0", "nprobot/ArmTrack-v0"
VARIANTS = [
    (REACH, {}),
    (REACH, {"normalize_actions": False, "gravity_compensation": False, "payload": 1.0}),
    (TRACK, {}),
    (TRACK, {"control": "torque", "lookahead": 3, "motion": "rhythmic"}),
]
SHIFTED = {"payload": 1.5, "friction_scale": 2.0}


@pytest.fixture
def make():
    made = []

    def build(name, **arguments):
        made.append(gymnasium.make(name, **arguments))
        return made[-1]

    yield build
    for env in made:
        env.close()


def roll(env, steps, seed=0, action=None, options=None):
    """Observations, rewards and infos of one rollout; random actions by default."""
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed, options=options)
    observations, rewards, infos = [observation], [], [info]
    for _ in range(steps):
        chosen = env.action_space.sample() if action is None else action(env.unwrapped, observation)
        observation, reward, _, truncated, info = env.step(chosen)
        observations.append(observation)
        rewards.append(reward)
        infos.append(info)
        if truncated:
            break
    return np.array(observations), np.array(rewards), infos


def rms_error(env, action, seeds=range(3), options=None):
    errors = [
        info["joint_error"]
        for seed in seeds
        for info in roll(env, 10_000, seed, action, options)[2][1:]
    ]
    return float(np.sqrt(np.mean(np.square(errors))))


def pd_alone(env, observation):
    return np.zeros(7, np.float32)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_gymnasium_and_sb3_accept_the_environment(make, name, arguments):
    with warnings.catch_warnings():
        # Unbounded observations and, in native units, actions beyond [-1, 1] draw advice.
        warnings.simplefilter("ignore", UserWarning)
        check_env(make(name, **arguments).unwrapped, skip_render_check=True)
        sb3_check_env(make(name, **arguments))


@pytest.mark.parametrize(
    ("name", "arguments", "rate"),
    [(REACH, {}, 50), (REACH, {"frame_skip": 20}, 25), (TRACK, {}, 100)],
)
def test_render_gives_pictures_at_the_rate_of_the_environment(make, name, arguments, rate):
    env = make(name, render_mode="rgb_array", width=120, height=90, **arguments)
    env.reset(seed=0)
    before = env.render()
    assert before.shape == (90, 120, 3) and before.dtype == np.uint8
    assert before.std() > 10
    for _ in range(30):
        env.step(env.action_space.high)
    assert np.abs(env.render().astype(int) - before).max() > 50
    assert env.unwrapped.dt == pytest.approx(1 / rate)
    assert env.metadata["render_fps"] == rate
    assert {"human", "rgb_array"} <= set(env.metadata["render_modes"])


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_same_seed_same_episode_whatever_came_before(make, name, arguments):
    env = make(name, **arguments)
    first = roll(env, 40, seed=7)
    roll(env, 13, seed=8)
    again, elsewhere = roll(env, 40, seed=7), roll(make(name, **arguments), 40, seed=7)
    other = roll(env, 40, seed=9)
    for observations, rewards, _ in (again, elsewhere):
        assert np.array_equal(observations, first[0]) and np.array_equal(rewards, first[1])
    assert not np.array_equal(other[0], first[0])


@pytest.mark.parametrize("name", [REACH, TRACK])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vectors_match_single_environments(make, name, mode):
    vector = gymnasium.make_vec(name, num_envs=2, vectorization_mode=mode)
    try:
        observation, _ = vector.reset(seed=5)
        action = np.full((2, 7), 0.1, np.float32)
        after, *_ = vector.step(action)
    finally:
        vector.close()
    single = make(name)
    assert np.array_equal(single.reset(seed=6)[0], observation[1])
    assert np.array_equal(single.step(action[1])[0], after[1])


@pytest.mark.parametrize("name", [REACH, TRACK])
def test_a_pickled_environment_is_made_with_the_same_arguments(make, name):
    env = make(name, payload=1.0, control_cost=0.2)
    copy = pickle.loads(pickle.dumps(env.unwrapped))
    assert (copy.payload, copy.control_cost) == (1.0, 0.2)
    assert np.array_equal(copy.reset(seed=1)[0], env.reset(seed=1)[0])


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_rewards_are_bounded_and_numbers_finite_under_the_strongest_actions(make, name, arguments):
    env = make(name, **arguments)

    def extreme(_, observation):
        return np.where(np.sin(37 * observation[:7]) > 0, 3.0, -3.0) * env.action_space.high

    for action in (None, extreme):
        observations, rewards, infos = roll(env, 200, action=action)
        assert np.isfinite(observations).all()
        assert (rewards <= 1).all() and (rewards >= -env.unwrapped.control_cost).all()
        torques = np.array([info["torque"] for info in infos[1:]])
        assert (np.abs(torques) <= TORQUE_LIMITS + 1e-9).all()


@pytest.mark.parametrize("name", [REACH, TRACK])
@pytest.mark.parametrize("action", [np.zeros(6), np.zeros((1, 7)), np.full(7, np.nan)])
def test_bad_actions_are_refused(make, name, action):
    env = make(name).unwrapped
    env.reset(seed=0)
    with pytest.raises(ActuatorError, match="7 finite numbers"):
        env.step(action)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (REACH, {"payload": -1.0}),
        (REACH, {"tolerance": 0.0}),
        (REACH, {"frame_skip": 0}),
        (TRACK, {"control": "velocity"}),
        (TRACK, {"motion": "dance"}),
        (TRACK, {"speed": 2.0}),
        (TRACK, {"lookahead": 0}),
        (TRACK, {"stiffness": -1.0}),
        (TRACK, {"friction_scale": float("inf")}),
    ],
)
def test_impossible_arguments_are_refused(name, arguments):
    with pytest.raises(ConfigError):
        gymnasium.make(name, **arguments)


@pytest.mark.parametrize("name", [REACH, TRACK])
def test_reset_options_change_the_robot_for_one_episode(make, name):
    env = make(name)
    plain = roll(env, 30)
    changed = roll(env, 30, options=SHIFTED)
    assert (env.unwrapped.payload, env.unwrapped.friction_scale) == (1.5, 2.0)
    assert not np.allclose(changed[0][1:], plain[0][1:])
    assert np.array_equal(roll(make(name, **SHIFTED), 30)[0], changed[0])
    assert np.array_equal(roll(env, 30)[0], plain[0])
    with pytest.raises(ConfigError, match="windspeed"):
        env.reset(options={"windspeed": 3.0})


# -- ArmReach ----------------------------------------------------------------------------------


def test_reach_targets_are_random_reachable_and_shown(make):
    env = make(REACH).unwrapped
    targets = []
    for seed in range(40):
        observation, info = env.reset(seed=seed)
        assert np.allclose(observation[14:17] + observation[17:20], env.target)
        assert info["distance"] == pytest.approx(np.linalg.norm(observation[17:20]))
        assert np.allclose(env.data.mocap_pos[0], env.target)
        targets.append(env.target)
    shoulder = env.data.body("base").xpos + np.array([0, 0, 0.333])
    # Links, hand offset and tool: no target beyond the stretched arm.
    assert (np.linalg.norm(targets - shoulder, axis=1) < 0.316 + 0.384 + 0.088 + 0.207 + 0.17).all()
    assert np.std(targets, axis=0).min() > 0.1


def test_reach_gravity_compensation_holds_the_arm_and_its_absence_drops_it(make):
    def drift(**arguments):
        observations, *_ = roll(make(REACH, **arguments), 100, action=pd_alone)
        return np.abs(observations[-1, :7] - observations[0, :7]).max()

    assert drift() < 1e-3
    assert drift(gravity_compensation=False) > 0.3


def test_reach_units_of_actions_agree(make):
    shares, native = make(REACH), make(REACH, normalize_actions=False)
    torque = np.linspace(-1, 1, 7) * TORQUE_LIMITS * 0.3
    assert np.allclose(native.action_space.high, TORQUE_LIMITS)
    results = [
        roll(env, 20, action=lambda u, _: u.action_from_torque(torque))[0]
        for env in (shares, native)
    ]
    assert np.allclose(*results, atol=1e-5)


def test_reach_success_is_being_within_tolerance(make):
    env = make(REACH, tolerance=0.05).unwrapped
    env.reset(seed=0)
    env.target = env.end_effector_at(env.data.qpos)
    _, reward, _, _, info = env.step(np.zeros(7))
    assert info["is_success"] and info["distance"] < 0.01 and reward > 0.9
    env.target = env.target + np.array([0.0, 0.0, 0.1])
    assert not env.step(np.zeros(7))[-1]["is_success"]


def test_reach_a_resolved_rate_controller_reaches(make):
    import mujoco

    def controller(env, observation):
        jacobian = np.zeros((3, 7))
        mujoco.mj_jacSite(env.model, env.data, jacobian, None, env.model.site("end_effector").id)
        pull = jacobian.T @ (300 * observation[17:20])
        return env.action_from_torque(pull - 8 * observation[7:14] * TORQUE_LIMITS / 87)

    env = make(REACH, max_episode_steps=200)
    assert np.mean([roll(env, 200, s, controller)[2][-1]["distance"] for s in range(5)]) < 0.06


# -- ArmTrack ----------------------------------------------------------------------------------


def test_track_observation_holds_the_reference_ahead(make):
    env = make(TRACK, lookahead=2)
    observations, _, infos = roll(env, 20, action=pd_alone)
    reference = env.unwrapped.reference
    assert observations.shape[1] == 14 + 21 * 2
    for step, (observation, info) in enumerate(zip(observations, infos, strict=True)):
        for ahead in (1, 2):
            window = observation[14 + 21 * (ahead - 1) : 14 + 21 * ahead].reshape(3, 7)
            assert np.array_equal(window[0], reference.position[step + ahead])
            assert np.array_equal(window[1], reference.velocity[step + ahead])
            assert np.array_equal(window[2], reference.acceleration[step + ahead])
        error = reference.position[step] - observation[:7]
        assert np.allclose(info["joint_error"], error)
        assert info["tracking_error"] == pytest.approx(np.sqrt(np.mean(error**2)))


def test_track_references_stay_in_the_working_range_and_start_under_the_arm(make):
    env = make(TRACK).unwrapped
    kinds = set()
    for seed in range(12):
        observation, info = env.reset(seed=seed)
        reference = env.reference
        assert (reference.position >= WORKING_LIMITS.low - 1e-9).all()
        assert (reference.position <= WORKING_LIMITS.high + 1e-9).all()
        assert (np.abs(reference.velocity) <= WORKING_LIMITS.speed * (1 + 1e-9)).all()
        assert info["tracking_error"] < 0.01
        assert np.allclose(observation[7:14], reference.velocity[0])
        kinds.add(bool(np.abs(reference.velocity[0]).max() > 0))
    assert kinds == {True, False}


def test_track_episode_ends_with_its_reference(make):
    env = make(TRACK, duration=0.3)
    env.reset(seed=0)
    flags = [env.step(pd_alone(env, None))[3] for _ in range(30)]
    assert flags == [False] * 29 + [True]


def test_track_exact_feedforward_is_many_times_better_than_none_or_a_nominal_one(make):
    env = make(TRACK)
    alone = rms_error(env, pd_alone)
    exact = rms_error(env, lambda u, _: u.exact_action())
    assert 0.03 < alone < 0.15
    assert exact < alone / 20
    nominal = rms_error(env, lambda u, _: u.exact_action(nominal=True), options=SHIFTED)
    shifted = rms_error(env, lambda u, _: u.exact_action(), options=SHIFTED)
    assert shifted < nominal / 5


def test_track_model_of_the_reference_entries_is_a_policy(make):
    env = make(TRACK)

    def learned(u, observation):
        q, v, a = np.split(observation[ArmTrackEnv.REFERENCE], 3)
        return u.action_from_torque(u.inverse_dynamics(q, v, a, nominal=True))

    same = rms_error(env, lambda u, _: u.exact_action(), seeds=[4])
    assert rms_error(env, learned, seeds=[4]) == same


def test_track_torques_add_up_and_torque_control_has_no_feedback(make):
    _, _, infos = roll(make(TRACK), 50, action=lambda u, _: u.exact_action())
    for info in infos[1:]:
        whole = info["feedforward_torque"] + info["feedback_torque"]
        assert np.allclose(info["torque"], whole, atol=1e-6)
    _, _, infos = roll(make(TRACK, control="torque"), 50, action=pd_alone)
    assert all((info["torque"] == 0).all() for info in infos[1:])
    assert infos[-1]["tracking_error"] > 0.3


def test_track_before_reset_says_so():
    env = ArmTrackEnv()
    with pytest.raises(ConfigError, match="reset"):
        _ = env.reference
    env.close()
