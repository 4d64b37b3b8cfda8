"""Demonstrations become rows of the right past and future, whatever format they are in."""

import json

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.wrappers import FlattenObservation, FrameStackObservation

from nprobot.envs.datasets import Demonstration, Demonstrations, is_lerobot, read_lerobot
from nprobot.envs.datasets.demonstrations import stacked
from nprobot.errors import ConfigError, DataError


def episode(number, steps=6, whole=True):
    """Observation (number, t); action 10 t + number, and its negative."""
    t = np.arange(steps, dtype=float)
    actions = np.stack([10 * t + number, -(10 * t + number)], axis=1)
    return Demonstration(np.stack([np.full(steps, float(number)), t], axis=1), actions, whole)


def all_rows(data):
    parts = [(s.inputs, s.targets) for s in data.splits.values()]
    return (np.concatenate(part) for part in zip(*parts, strict=True))


def test_rows_hold_the_last_observations_and_the_next_actions():
    found = Demonstrations("toy", [episode(n) for n in range(4)], rate=50.0)
    data = found.rows(history=3, chunk=2)
    assert data.input_names[:2] == ("observation0@-2", "observation1@-2")
    assert data.input_names[-1] == "observation1" and data.target_names[2] == "action0@+1"
    x, y = all_rows(data)
    assert len(x) == 4 * 5  # the last step has no action after it
    number, now = x[:, -2], x[:, -1]
    for back in (1, 2):  # before the first observation, that one again
        np.testing.assert_array_equal(x[:, -1 - 2 * back], np.maximum(now - back, 0))
    for ahead in (0, 1):
        np.testing.assert_array_equal(y[:, 2 * ahead], 10 * (now + ahead) + number)
        np.testing.assert_array_equal(y[:, 2 * ahead + 1], -y[:, 2 * ahead])
    assert data.meta["episodes"] == 4 and data.meta["rate"] == 50.0


def test_history_is_that_of_gymnasium():
    env = gymnasium.make("Pendulum-v1")
    plain = FlattenObservation(FrameStackObservation(env, 4, padding_type="reset"))
    seen, told = [plain.reset(seed=0)[0]], []
    env.action_space.seed(0)
    for _ in range(10):
        told.append(env.action_space.sample())
        seen.append(plain.step(told[-1])[0])
    single = np.stack(seen[:-1])[:, -3:]
    np.testing.assert_array_equal(stacked(Demonstration(single, np.stack(told)), 4), seen[:-1])


def test_a_past_that_is_not_known_is_not_made_up():
    part = episode(0, whole=False)
    np.testing.assert_array_equal(stacked(part, 3)[:, -1], [2, 3, 4, 5])
    with pytest.raises(DataError, match="shorter history"):
        Demonstrations("toy", [part]).rows(history=7)


def test_what_cannot_be_cloned_is_refused():
    with pytest.raises(DataError, match="no step"):
        Demonstrations("toy", [])
    other = Demonstration(np.zeros((3, 5)), np.zeros((3, 2)))
    with pytest.raises(DataError, match="differ in width"):
        Demonstrations("toy", [episode(0), other])
    with pytest.raises(DataError, match="action for each"):
        Demonstration(np.zeros((3, 5)), np.zeros((2, 2)))
    labels = Demonstration(np.zeros((3, 5)), np.zeros(3, np.int64))
    with pytest.raises(ConfigError, match="discrete"):
        Demonstrations("toy", [labels]).rows(chunk=2)
    with pytest.raises(ConfigError, match="1 or more"):
        Demonstrations("toy", [episode(0)]).rows(history=0)


def lerobot(folder, version, episodes=4, steps=6):
    """A folder as LeRobot writes it, a film and its text columns aside.

    Version 2 has a file an episode, version 3 has two episodes a file here.
    """
    vector = {"dtype": "float32", "shape": [2]}
    one = {"dtype": "int64", "shape": [1], "names": None}
    features = {
        "observation.images.top": {"dtype": "video", "shape": [3, 8, 8], "names": None},
        "observation.state": vector | {"names": ["shoulder", "elbow"]},
        "observation.effort": {"dtype": "float32", "shape": [1], "names": None},
        "action": vector | {"names": {"motors": ["shoulder", "elbow"]}},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), one),
    }
    info = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": episodes,
        "total_frames": episodes * steps,
        "fps": 30,
        "features": features,
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "data" / "chunk-000").mkdir(parents=True)
    per_file = 1 if version.startswith("v2") else 2
    for first in range(0, episodes, per_file):
        parts = [episode(n, steps) for n in range(first, first + per_file)]
        x = np.concatenate([part.observations for part in parts])
        t = x[:, 1].astype(np.int64)
        table = pa.table(
            {
                "observation.state": pa.array(x.tolist(), pa.list_(pa.float32())),
                "observation.effort": pa.array((x[:, 1] / 2).tolist(), pa.float32()),
                "action": pa.FixedSizeListArray.from_arrays(
                    np.concatenate([part.actions for part in parts]).astype(np.float32).ravel(), 2
                ),
                "timestamp": t / 30,
                "frame_index": t,
                "episode_index": x[:, 0].astype(np.int64),
            }
        )
        names = "episode_{:06d}" if per_file == 1 else "file-{:03d}"
        file = f"{names.format(first // per_file)}.parquet"
        pq.write_table(table, folder / "data" / "chunk-000" / file)
    return folder


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobots_folders_are_read(version, tmp_path):
    folder = lerobot(tmp_path / "pick", version)
    assert is_lerobot(folder) and not is_lerobot(tmp_path)
    found = read_lerobot(folder)
    assert len(found.episodes) == 4 and found.rate == 30 and found.env is None
    assert found.observation_names == [
        *("observation.state.shoulder", "observation.state.elbow", "observation.effort"),
    ]
    assert found.action_names == ["action.shoulder", "action.elbow"]
    assert "observation.images.top" in found.notes[1]
    for number, part in enumerate(found.episodes):
        expected = episode(number)
        np.testing.assert_array_equal(part.observations[:, :2], expected.observations)
        np.testing.assert_array_equal(part.actions, expected.actions)
        assert part.whole
    state = read_lerobot(folder, inputs=["observation.state"])
    assert state.episodes[0].observations.shape == (6, 2)
    assert found.rows().target_names == ("action.shoulder", "action.elbow")


def test_lerobots_folders_that_cannot_be_used_are_refused(tmp_path):
    folder = lerobot(tmp_path / "pick", "v3.0")
    with pytest.raises(DataError, match="no numbers but a video"):
        read_lerobot(folder, inputs=["observation.images.top"])
    with pytest.raises(DataError, match=r"did you mean.*observation\.state"):
        read_lerobot(folder, inputs=["observation.stat"])
    with pytest.raises(DataError, match="no feature 'nothing'"):
        read_lerobot(folder, targets=["nothing"])
    file = folder / "data" / "chunk-000" / "file-001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(1).filter(pa.array([True, False] * 5 + [True])), file)
    with pytest.raises(DataError, match="lacks steps"):
        read_lerobot(folder)
    pq.write_table(table.drop(["action"]), file)
    with pytest.raises(DataError, match="action"):
        read_lerobot(folder)
    file.write_bytes(b"not a table")
    with pytest.raises(DataError, match="cannot be read"):
        read_lerobot(folder)
    ragged = pa.array([[1.0, 2.0]] * 11 + [[1.0]], pa.list_(pa.float32()))
    place = table.column_names.index("observation.state")
    pq.write_table(table.set_column(place, "observation.state", ragged), file)
    with pytest.raises(DataError, match="same length"):
        read_lerobot(folder)
    info = folder / "meta" / "info.json"
    info.write_text(info.read_text().replace("v3.0", "v1.6"))
    with pytest.raises(DataError, match=r"version v1\.6"):
        read_lerobot(folder)
    info.write_text("{")
    with pytest.raises(DataError, match="not readable"):
        read_lerobot(folder)
