"""Recorded data is what the robot's model says, without leaks, and the same from the cache."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from nprobot.envs import arm, datasets
from nprobot.envs.datasets import Recording, cache_folder, recording
from nprobot.errors import ConfigError, DataWarning, UnknownNameError


def test_inverse_dynamics_reproduces_mj_inverse_row_by_row(recorded):
    model = mujoco.MjModel.from_xml_path(str(arm.model_path()))
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    state = mujoco.MjData(model)
    for row in (0, 57, 399):
        state.qpos[:], state.qvel[:], state.qacc[:] = np.split(recorded.train.inputs[row], 3)
        mujoco.mj_inverse(model, state)
        assert np.allclose(state.qfrc_inverse, recorded.train.targets[row], rtol=1e-6, atol=1e-8)
    assert recorded.train.inputs.shape == (400, 21) and recorded.train.targets.shape == (400, 7)
    assert recorded.input_names[::7] == ("joint1", "joint1.velocity", "joint1.acceleration")
    assert recorded.input_units[::7] == ("rad", "rad/s", "rad/s²")
    assert set(recorded.target_units) == {"N·m"}


def test_splits_share_no_trajectory_and_the_shifted_one_repeats_the_test_motion(recorded):
    splits = recorded.train, recorded.validation, recorded.test
    parts = [set(split.trajectory.tolist()) for split in splits]
    assert [len(p) for p in parts] == [4, 2, 2]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert np.array_equal(recorded.shifted.inputs, recorded.test.inputs)
    assert not np.allclose(recorded.shifted.targets, recorded.test.targets)
    rows = {row.tobytes() for row in recorded.train.inputs}
    assert not any(row.tobytes() in rows for row in recorded.test.inputs)


def test_shifted_targets_are_those_of_a_loaded_robot_that_rubs_more(small):
    unshifted = datasets.inverse_dynamics(recording=small, payload=0.0, friction_scale=1.0)
    assert np.allclose(unshifted.shifted.targets, unshifted.test.targets)
    data = datasets.inverse_dynamics(recording=small, payload=2.0, friction_scale=1.0)
    env = gymnasium.make("nprobot/ArmTrack-v0", payload=2.0).unwrapped
    exact = env.inverse_dynamics(*np.split(data.shifted.inputs, 3, axis=1))
    env.close()
    assert np.allclose(exact, data.shifted.targets, atol=1e-8)


def test_trajectories_are_recordings_in_time(small, recorded):
    first = recorded.train.inputs[recorded.train.trajectory == 0]
    assert len(first) == 100
    step = np.diff(first[:, :7], axis=0) * small.rate
    mean_velocity = (first[1:, 7:14] + first[:-1, 7:14]) / 2
    assert np.allclose(step, mean_velocity, atol=0.02)


def test_default_task_is_correlated_large_and_beyond_linear_regression():
    data = datasets.inverse_dynamics(cache=False)
    assert len(data.train) >= 32_000
    inputs = (data.train.inputs - data.train.inputs.mean(0)) / data.train.inputs.std(0)
    spectrum = np.linalg.eigvalsh(inputs.T @ inputs)
    assert spectrum[-1] / spectrum[0] > 30
    linear, mean = datasets.linear_regression(data), datasets.mean_predictor(data)
    assert 0.15 < linear["test"].mean() < 0.5
    assert linear["shifted"].mean() > linear["test"].mean()
    assert np.allclose(mean["train"], 1.0) and mean["test"].mean() >= 1.0


def test_more_training_trajectories_leave_the_others_as_they_are(small, recorded):
    many = datasets.inverse_dynamics(recording=small.replace(train=6))
    assert np.array_equal(many.test.inputs, recorded.test.inputs)
    assert np.array_equal(many.train.inputs[: len(recorded.train)], recorded.train.inputs)
    other = datasets.inverse_dynamics(recording=small.replace(seed=1))
    assert not np.allclose(other.train.inputs, recorded.train.inputs)


@pytest.mark.parametrize(("share", "moving"), [(0.0, 0), (0.3, 3), (1.0, 10)])
def test_share_of_rhythmic_trajectories_is_kept(small, share, moving):
    data = datasets.inverse_dynamics(recording=small.replace(train=10, rhythmic=share))
    starts = data.train.inputs[:: round(small.rate), 7:14]
    assert (np.abs(starts).max(1) > 0).sum() == moving


def test_forward_kinematics_is_the_pose_of_the_tool(small):
    data = datasets.forward_kinematics(recording=small, tool_shift=0.1)
    env = gymnasium.make("nprobot/ArmTrack-v0").unwrapped
    for inputs, pose, longer in zip(
        data.test.inputs[::60], data.test.targets[::60], data.shifted.targets[::60], strict=True
    ):
        assert np.allclose(env.end_effector_at(inputs), pose[:3], atol=1e-12)
        x, y = pose[3:6], pose[6:9]
        assert np.allclose([x @ x, y @ y, x @ y], [1, 1, 0], atol=1e-9)
        assert np.allclose(longer[:3] - pose[:3], 0.1 * np.cross(x, y), atol=1e-9)
    env.close()
    assert data.target_names[:4] == ("x", "y", "z", "R11")


def test_inverse_kinematics_asks_for_the_posture_that_has_the_pose(small):
    data = datasets.inverse_kinematics(recording=small, lookahead=0.25)
    forward = datasets.forward_kinematics(recording=small)
    assert len(data.train) == 4 * 75
    pose, now = data.train.inputs[:75, :9], data.train.inputs[:75, 9:]
    assert np.array_equal(pose, forward.train.targets[25:100])
    assert np.array_equal(now, forward.train.inputs[:75])
    assert np.array_equal(data.train.targets[:75], forward.train.inputs[25:100])


# -- settings and names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"train": 0},
        {"duration": 0.0},
        {"duration": 0.01},
        {"rate": float("inf")},
        {"rhythmic": 1.2},
        {"synergy": -0.1},
        {"speed": 0.0},
        {"seed": -1},
    ],
)
def test_impossible_recordings_are_refused(bad):
    with pytest.raises(ConfigError):
        Recording(**bad)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("inverse-dynamics", {"payload": -1.0}),
        ("forward-kinematics", {"tool_shift": float("nan")}),
        ("inverse-kinematics", {"lookahead": 0.0}),
        ("inverse-kinematics", {"lookahead": 5.0}),
        ("inverse-kinematics", {"lookahead": float("nan")}),
        ("inverse-dynamics", {"train": "many"}),
        ("inverse-dynamics", {"payload": "heavy"}),
    ],
)
def test_impossible_settings_are_named(kind, bad):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))}|wrong type"):
        datasets.make(f"arm-{kind}", **bad)


def test_tasks_are_made_by_name_with_flat_settings(small, same):
    settings = {"train": 4, "validation": 2, "test": 2, "duration": 1}
    made = datasets.make("arm-inverse-dynamics", payload=1.0, cache=False, **settings)
    assert same(made, datasets.inverse_dynamics(recording=small, payload=1.0))
    for name in ("arm-forward-kinematics", "arm-inverse-kinematics"):
        assert len(datasets.make(name, **settings).splits) == 4
    own = datasets.make("inverse-dynamics", robot=arm.model_path(), **settings)
    assert own.meta["robot"] == arm.model_path().stem


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("arm-inverse-dynamic", {}, UnknownNameError, "did you mean arm-inverse-dynamics"),
        ("arm-inverse-dynamics", {"paylod": 1.0}, UnknownNameError, "did you mean payload"),
        ("arm-inverse-dynamics", {"robot": "Ant-v5"}, UnknownNameError, "'robot'"),
        ("inverse-dynamics", {}, ConfigError, "needs a robot"),
    ],
)
def test_unknown_tasks_and_settings_suggest_the_nearest(name, settings, error, message):
    with pytest.raises(error, match=message):
        datasets.make(name, **settings)


# -- the cache ---------------------------------------------------------------------------------

BRIEF = Recording(train=2, validation=1, test=1, duration=0.5)


def stored(cache):
    return sorted((cache / "datasets").iterdir())


@pytest.fixture
def counted(monkeypatch):
    """How often trajectories were really drawn."""
    calls = []
    draw = recording._trajectories

    def counting(*arguments):
        calls.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(recording, "_trajectories", counting)
    return calls


def test_second_request_reads_what_the_first_stored(counted, same):
    first = datasets.inverse_dynamics(recording=BRIEF)
    second = datasets.inverse_dynamics(recording=BRIEF)
    assert len(counted) == 1 and same(first, second)
    assert first.meta["settings_hash"] == second.meta["settings_hash"]
    assert json.dumps(second.meta["settings"]) == json.dumps(first.meta["settings"])


def test_every_setting_is_part_of_the_key(cache, counted):
    datasets.inverse_dynamics(recording=BRIEF)
    datasets.inverse_dynamics(recording=BRIEF, payload=1.0)
    datasets.inverse_dynamics(recording=BRIEF, friction_scale=2.0)
    datasets.inverse_dynamics(recording=BRIEF.replace(synergy=0.5))
    datasets.inverse_dynamics("Pusher-v5", BRIEF)
    datasets.forward_kinematics(recording=BRIEF)
    assert len(counted) == 6 and len(stored(cache)) == 6
    datasets.inverse_dynamics(recording=BRIEF, cache=False)
    assert len(counted) == 7 and len(stored(cache)) == 6


def test_an_edited_model_file_is_other_data(counted, tmp_path):
    path = tmp_path / "robot.xml"
    text = (
        '<mujoco><worldbody><body><joint axis="0 1 0"/>'
        '<geom size=".1" pos=".3 0 0" mass="{}"/></body></worldbody></mujoco>'
    )
    made = []
    for mass in (1, 2):
        path.write_text(text.format(mass))
        made.append(datasets.inverse_dynamics(path, BRIEF))
    assert len(counted) == 2
    assert np.allclose(2 * made[0].test.targets, made[1].test.targets, rtol=1e-6)


def inverted(where):
    def damage(path):
        content = bytearray(path.read_bytes())
        spot = int(where * len(content))
        content[spot : spot + 64] = bytes(byte ^ 0xFF for byte in content[spot : spot + 64])
        path.write_bytes(content)

    return damage


def replaced(content):
    return lambda path: path.write_bytes(content)


def mistaken(path):
    datasets.inverse_dynamics(recording=BRIEF, payload=1.0, cache=False).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(inverted(where), "made again") for where in (0.02, 0.3, 0.6, 0.97)]
    + [(replaced(content), "made again") for content in (b"", b"PK\x03\x04", b"\x80\x04K\x01.")]
    + [(mistaken, "other settings")],
)
def test_damage_is_noticed_reported_and_repaired(cache, same, damage, message):
    good = datasets.inverse_dynamics(recording=BRIEF)
    damage(stored(cache)[0])
    with pytest.warns(DataWarning, match=message) as caught:
        assert same(good, datasets.inverse_dynamics(recording=BRIEF))
    (warning,) = (each for each in caught if each.category is DataWarning)
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(good, datasets.inverse_dynamics(recording=BRIEF))


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setenv("NPROBOT_CACHE", str(blocker))
    with pytest.warns(DataWarning, match="NPROBOT_CACHE"):
        data = datasets.inverse_dynamics(recording=BRIEF)
    assert len(data.train) == 100


def test_processes_that_ask_at_once_get_the_same_whole_file(cache):
    code = (
        "from nprobot.envs import datasets as d\n"
        "r = d.Recording(train=2, validation=1, test=1, duration=0.5)\n"
        "print('ready', flush=True)\n"
        "input()\n"
        "for _ in range(5): data = d.inverse_dynamics(recording=r)\n"
        "print(abs(data.shifted.targets).sum(), data.meta['settings_hash'])\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    answers = {worker.communicate()[0] for worker in workers}
    assert all(worker.returncode == 0 for worker in workers)
    assert [path.suffix for path in stored(cache)] == [".npz"]
    mine = datasets.inverse_dynamics(recording=BRIEF, cache=False)
    sum_and_hash = f"{abs(mine.shifted.targets).sum()} {mine.meta['settings_hash']}\n"
    assert answers == {sum_and_hash}


def test_cache_folder_honours_the_environment(monkeypatch):
    monkeypatch.setenv("NPROBOT_CACHE", "/somewhere/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/xdg")
    assert cache_folder() == Path("/somewhere/own")
    monkeypatch.delenv("NPROBOT_CACHE")
    assert cache_folder() == Path("/somewhere/xdg/nprobot")
    monkeypatch.delenv("XDG_CACHE_HOME")
    for platform, part in (("linux", ".cache"), ("darwin", "Caches"), ("win32", "nprobot")):
        monkeypatch.setattr(sys, "platform", platform)
        assert part in cache_folder().parts
