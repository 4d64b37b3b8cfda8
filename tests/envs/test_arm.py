"""The arm's model and its dynamics."""

import mujoco
import numpy as np
import pytest

from nprobot.envs import arm
from nprobot.envs.dynamics import Gravity, InverseDynamics, shift
from nprobot.errors import ConfigError


@pytest.fixture
def model():
    return mujoco.MjModel.from_xml_path(str(arm.model_path()))


def inverse(model):
    return InverseDynamics(model, range(7), range(7))


def posture(seed):
    rng = np.random.default_rng(seed)
    limits = arm.WORKING_LIMITS
    return (
        rng.uniform(limits.low, limits.high),
        rng.uniform(-limits.speed, limits.speed),
        rng.uniform(-limits.acceleration, limits.acceleration),
    )


def test_model_has_the_published_figures(model):
    assert np.allclose(model.actuator_ctrlrange[:, 1], arm.TORQUE_LIMITS)
    assert np.allclose(model.actuator_ctrlrange[:, 0], -arm.TORQUE_LIMITS)
    expected = np.array(
        [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973],
    )
    assert np.allclose(model.jnt_range[:, 1], expected)
    assert (model.jnt_range[:, 0] < arm.WORKING_LIMITS.low).all()
    assert (model.jnt_range[:, 1] > arm.WORKING_LIMITS.high).all()
    assert model.body_mass.sum() == pytest.approx(18.0)

    # Upright, the flange hangs a7 beside the axis and d1 + d3 + d5 - flange above the base.
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    flange = data.body("tool").xpos - data.body("base").xpos
    assert np.allclose(flange, [0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107])


def test_motors_carry_the_stretched_arm_and_three_kilograms(model):
    shift(model, payload=3.0, body=model.body("tool").id, offset=model.site_pos[0])
    stretched = np.array([0.0, np.pi / 2, 0.0, -0.0698, 0.0, np.pi / 2, 0.0])
    assert (np.abs(Gravity(model)(stretched)) < arm.TORQUE_LIMITS).all()


def test_inverse_dynamics_undoes_forward_dynamics(model):
    exact = inverse(model)
    q, v, a = posture(0)
    torque = exact(q, v, a)
    data = mujoco.MjData(exact.model)
    data.qpos[:], data.qvel[:], data.qfrc_applied[:] = q, v, torque
    mujoco.mj_forward(exact.model, data)
    assert np.allclose(data.qacc, a, atol=1e-8)


def test_inverse_dynamics_answers_rows_in_any_order_and_shape(model):
    exact = inverse(model)
    rows = [np.stack(part) for part in zip(*(posture(s) for s in range(6)), strict=True)]
    together = exact(*rows)
    assert np.array_equal(exact(*(r[::-1] for r in rows))[::-1], together)
    assert np.array_equal(exact(*(r.reshape(2, 3, 7) for r in rows)).reshape(6, 7), together)
    with pytest.raises(ConfigError, match="7"):
        exact(np.zeros(6), np.zeros(6), np.zeros(6))


def test_gravity_is_inverse_dynamics_at_rest(model):
    q, *_ = posture(1)
    still = inverse(model)(q, np.zeros(7), np.zeros(7))
    assert np.allclose(Gravity(model)(q), still, atol=1e-10)


def test_payload_pulls_like_its_weight_and_moves_like_a_body_welded_on(model):
    site = model.site(arm.END_EFFECTOR)
    q, v, a = posture(2)
    before = inverse(model)(q, np.zeros(7), np.zeros(7))
    loaded = mujoco.MjModel.from_xml_path(str(arm.model_path()))
    shift(loaded, payload=2.0, body=int(model.site_bodyid[site.id]), offset=site.pos)
    after = inverse(loaded)(q, np.zeros(7), np.zeros(7))
    data, jacobian = mujoco.MjData(model), np.zeros((3, 7))
    data.qpos[:] = q
    mujoco.mj_forward(model, data)
    mujoco.mj_jacSite(model, data, jacobian, None, site.id)
    assert np.allclose(after - before, jacobian.T @ [0, 0, 2.0 * 9.81], atol=1e-9)

    spec = mujoco.MjSpec.from_file(str(arm.model_path()))
    ball = spec.body("tool").add_geom(
        type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[1e-3, 0, 0], pos=site.pos, mass=2.0
    )
    ball.contype = ball.conaffinity = 0
    assert np.allclose(inverse(loaded)(q, v, a), inverse(spec.compile())(q, v, a), atol=1e-4)


def test_friction_scale_scales_friction_alone(model):
    q, v, a = posture(3)
    rough, smooth = (mujoco.MjModel.from_xml_path(str(arm.model_path())) for _ in range(2))
    shift(rough, friction_scale=2.0)
    shift(smooth, friction_scale=0.0)
    torque = [inverse(m)(q, v, a) for m in (smooth, model, rough)]
    assert np.allclose(torque[1] - torque[0], torque[2] - torque[1], atol=1e-6)
    assert (np.sign(torque[1] - torque[0]) == np.sign(v)).all()


@pytest.mark.parametrize("bad", [{"payload": -1.0}, {"friction_scale": np.nan}, {"payload": 1.0}])
def test_impossible_shifts_are_refused(model, bad):
    with pytest.raises(ConfigError):
        shift(model, **bad)
