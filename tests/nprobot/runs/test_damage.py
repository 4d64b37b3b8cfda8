"""Damaged, forged, foreign and newer files: a typed error that says which, or the one before."""

import copy as copying
import dataclasses
import json
import random
import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nprobot.errors import (
    ArchitectureError,
    DamagedFileError,
    ForeignFileError,
    NewerFileError,
    NprobotError,
)
from nprobot.runs import checkpoints as checkpoint_folder
from nprobot.runs.checkpoints import MANIFEST, check, newest_whole
from nprobot.runs.folder import find_policy
from nprobot.runs.log import read_table
from nprobot.runs.reporting import Silent
from nprobot.training.build import build_model
from nprobot.training.run_config import NetworkOptions
from nprobot.training.run_folder import RunFolder
from nprobot.training.training_run import _load, resume, train
from nprobot.training.vector import make_vector

FILES = [
    "checkpoint.json",
    "policy.json",
    "policy.safetensors",
    "training.json",
    "training.safetensors",
]
LAST = "step_000000640"

relaxed = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
thorough = settings(relaxed, max_examples=3000)


@pytest.fixture
def checkpoints(copy):
    return copy / "checkpoints"


def sign(path, **changes):
    """Write a manifest that fits the files, as somebody could who means to deceive."""
    (path / MANIFEST).unlink(missing_ok=True)
    checkpoint_folder._describe(path, 0)
    if changes:
        content = json.loads((path / MANIFEST).read_text())
        del content["sha256"]
        (path / MANIFEST).write_bytes(checkpoint_folder._signed(content | changes).encode())


def damage(content, kind, place, value):
    """A file with something wrong; None if it is gone."""
    place %= len(content)
    if kind == "flipped":
        return content[:place] + bytes([content[place] ^ (1 + value % 255)]) + content[place + 1 :]
    return {
        "cut": content[:place],
        "longer": content[:place] + bytes([value]) + content[place:],
        "zeros": content[:place] + bytes(len(content) - place),
        "gone": None,
    }[kind]


DAMAGES = st.tuples(
    st.sampled_from(FILES),
    st.sampled_from(["flipped", "flipped", "cut", "longer", "zeros", "gone"]),
    st.integers(0, 2**20),
    st.integers(0, 255),
)


def fall_back(checkpoints, file, kind, place, value):
    """Damage a file of the last checkpoint: the one before has to be found, with a message."""
    file = checkpoints / LAST / file
    content = file.read_bytes()
    damaged = damage(content, kind, place, value)
    if damaged == content:
        return
    file.unlink()
    if damaged is not None:
        file.write_bytes(damaged)
    messages = []
    try:
        assert newest_whole(checkpoints, messages.append).name == "step_000000512"
        assert len(messages) == 1
        assert LAST in messages[0]
    finally:
        file.write_bytes(content)


class TestDamaged:
    @relaxed
    @given(DAMAGES)
    @example(("checkpoint.json", "cut", 0, 0))
    @example(("checkpoint.json", "longer", 0, 9))  # a tab, which JSON does not mind
    @example(("checkpoint.json", "flipped", 1, 6))  # another kind of line end
    def test_any_byte_of_any_file(self, run, tmp_path_factory, damaged):
        fall_back(self.checkpoints(run, tmp_path_factory), *damaged)

    @pytest.mark.slow
    @thorough
    @given(DAMAGES)
    def test_very_many_bytes(self, run, tmp_path_factory, damaged):
        fall_back(self.checkpoints(run, tmp_path_factory), *damaged)

    @staticmethod
    def checkpoints(run, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / "damaged"
        if not path.exists():
            shutil.copytree(run / "checkpoints", path, symlinks=True)
        return path

    @pytest.mark.parametrize("file", FILES)
    def test_the_run_goes_on_from_the_one_before(self, run, copy, tools, file):
        content = (copy / "checkpoints" / LAST / file).read_bytes()
        spoilt = damage(content, "flipped", random.randrange(len(content)), 0)
        (copy / "checkpoints" / LAST / file).write_bytes(spoilt)
        listener = tools.Listener()
        resume(copy, reporter=listener)
        assert "using step_000000512 instead" in listener.messages[0]
        aside = copy / "checkpoints" / f"damaged_{LAST}"
        assert (aside / file).read_bytes() == spoilt  # kept, for whoever wants to look at it
        shutil.rmtree(aside)
        tools.assert_same(copy, run)

    def test_all_of_them(self, copy, checkpoints):
        for path in checkpoints.glob("step_*"):
            (path / "training.json").unlink()
        with pytest.raises(DamagedFileError, match=r"no checkpoint can be used.*step_000000128"):
            resume(copy)

    def test_what_a_killed_run_left_behind(self, run, copy, checkpoints, tools):
        (checkpoints / ".writing_step_000000768").mkdir()
        (checkpoints / ".writing_step_000000768" / "policy.json").write_text("{")
        (checkpoints / "last").unlink()
        assert find_policy(copy) == checkpoints / LAST
        shutil.rmtree(checkpoints / LAST)
        resume(copy)
        tools.assert_same(copy, run)

    def test_logs_that_are_gone(self, copy, checkpoints, tools):
        shutil.rmtree(checkpoints / LAST)
        (copy / "progress.csv").unlink()
        listener = tools.Listener()
        assert resume(copy, reporter=listener).steps == 640
        assert any("rows of progress.csv" in message for message in listener.messages)

    @relaxed
    @given(st.binary(max_size=300))
    @example(b"time/total_timesteps,a\n1,\x00\n")
    @example(b'time/total_timesteps\n"\n')
    def test_any_table(self, tmp_path, content):
        (tmp_path / "progress.csv").write_bytes(b"time/total_timesteps,b\n1,2\n" + content)
        assert read_table(tmp_path / "progress.csv")[0] == {"time/total_timesteps": "1", "b": "2"}

    @relaxed
    @given(
        kind=st.sampled_from(["flipped", "cut", "zeros"]),
        place=st.integers(0),
        value=st.integers(0, 255),
    )
    def test_any_configuration(self, run, tmp_path, kind, place, value):
        content = damage((run / "config.json").read_bytes(), kind, place, value)
        (tmp_path / "config.json").write_bytes(content)
        try:
            RunFolder.open(tmp_path)
        except NprobotError as error:
            assert str(error)


class TestForeign:
    def test_another_network(self, copy, checkpoints, tools, tmp_path):
        other = dataclasses.replace(tools.SMALL, steps=128, network=NetworkOptions(hidden=(9,)))
        train(other, tmp_path / "other")
        shutil.copytree(
            tmp_path / "other/checkpoints/step_000000128", checkpoints / "step_000000700"
        )
        with pytest.raises(ArchitectureError, match=r"another network.*shape"):
            resume(copy)

    def test_another_run(self, copy, checkpoints):
        text = (copy / "config.json").read_text()
        (copy / "config.json").write_text(text.replace('"seed": 3', '"seed": 4'))
        with pytest.raises(ForeignFileError, match=r"its seed is 3, config.json says 4"):
            resume(copy)

    def test_a_newer_version(self, copy, checkpoints):
        sign(checkpoints / LAST, version=2)
        with pytest.raises(NewerFileError, match=r"format version 2.*Upgrade"):
            resume(copy)

    def test_something_else(self, checkpoints):
        sign(checkpoints / LAST, format="somebody-elses")
        with pytest.raises(ForeignFileError, match="somebody-elses"):
            check(checkpoints / LAST)
        (checkpoints / LAST / MANIFEST).write_text("[]")
        with pytest.raises(ForeignFileError, match="no description"):
            check(checkpoints / LAST)

    def test_files_elsewhere_are_not_read(self, checkpoints):
        (checkpoints / "secret").write_text("secret")
        files = {"../secret": {"bytes": 6, "sha256": ""}}
        sign(checkpoints / LAST, files=files)
        with pytest.raises(DamagedFileError, match="does not list"):
            check(checkpoints / LAST)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.sampled_from(
        [{"$array": "x"}, {"$tuple": 1}, {"$items": [1]}, {"$float": "x"}, {"kind": "x"}]
    ),
)


def leaves(tree, path=()):
    """Paths to everything in a JSON tree."""
    yield path
    children = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, child in children:
        if isinstance(child, dict | list):
            yield from leaves(child, (*path, key))
        else:
            yield (*path, key)


def forge(run, tmp_path, choose, value):
    """Replace one thing in a checkpoint, sign it, and load it: typed errors, or nothing."""
    path = tmp_path / LAST
    if not path.exists():
        shutil.copytree(run / "checkpoints" / LAST, path)
    original = (run / "checkpoints" / LAST / "training.json").read_bytes()
    tree = json.loads(original)
    places = list(leaves(tree))[1:]
    *above, key = places[choose % len(places)]
    parent = tree
    for step in above:
        parent = parent[step]
    parent[key] = copying.deepcopy(value)
    (path / "training.json").write_text(json.dumps(tree))
    sign(path)
    check(path)
    config = RunFolder.open(run).config
    vector = make_vector(config)
    try:
        _load(path, build_model(config, vector), config, Silent())
    except NprobotError as error:
        assert str(error)
    finally:
        vector.close()


class TestForged:
    @settings(relaxed, max_examples=25)
    @given(st.integers(0), VALUES)
    def test_anything_else_in_its_place(self, run, tmp_path, choose, value):
        forge(run, tmp_path, choose, value)

    @pytest.mark.slow
    @settings(thorough, max_examples=1500)
    @given(st.integers(0), VALUES)
    def test_very_many_other_things(self, run, tmp_path, choose, value):
        forge(run, tmp_path, choose, value)
