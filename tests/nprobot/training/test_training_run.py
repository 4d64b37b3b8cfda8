"""A run on disk: what is in its folder, what a checkpoint keeps, how a run goes on."""

import dataclasses
import errno
import json
import shutil

import numpy as np
import pytest
import torch

from nprobot.catalogue import ALGORITHMS
from nprobot.errors import (
    ConfigError,
    DamagedFileError,
    ExistsError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
    StorageError,
)
from nprobot.policies.files import policy_file
from nprobot.runs.checkpoints import numbered
from nprobot.runs.folder import default_path, find_policy
from nprobot.runs.log import column, read_table
from nprobot.runs.seeds import Seeds
from nprobot.runs.state import load_state, save_state
from nprobot.training import checkpoint as checkpoints
from nprobot.training.build import build_model
from nprobot.training.checkpoint import load_checkpoint, training_state
from nprobot.training.run_config import LearningOptions
from nprobot.training.run_folder import RunFolder
from nprobot.training.training_run import resume, train
from nprobot.training.vector import make_vector

from .helpers import CONFIG, STEPS, Listener


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    listener = Listener()
    path = tmp_path_factory.mktemp("runs") / "first"
    result = train(CONFIG, path, reporter=listener, command="nprobot train --seed 3")
    return result, listener


@pytest.fixture
def copy(run, tmp_path):
    """A run that a test may change."""
    path = tmp_path / "copy"
    shutil.copytree(run[0].folder.path, path, symlinks=True)
    return path


def parameters(model):
    return torch.cat([tensor.flatten().double() for tensor in model.policy.state_dict().values()])


class TestFolder:
    def test_files(self, run):
        path = run[0].folder.path
        names = {p.name for p in path.iterdir()}
        events = {name for name in names if name.startswith("events.out.tfevents")}
        assert len(events) == 1
        assert names - events == {"config.json", "progress.csv", "checkpoints", "curve.png"}
        steps = sorted(p.name for p in (path / "checkpoints").iterdir())
        assert steps == ["last", "step_000000256", "step_000000512"]
        assert (path / "checkpoints" / "last").resolve().name == "step_000000512"
        kinds = {p.suffix for p in (path / "checkpoints").rglob("*") if p.is_file()}
        assert kinds == {".json", ".safetensors"}

    def test_config_says_what_was_used(self, run):
        written = json.loads((run[0].folder.path / "config.json").read_text())
        config = written["config"]
        assert written["command"] == "nprobot train --seed 3"
        assert config["algorithm"]["n_steps"] == 64
        own = {name: config["algorithm"][name] for name in ALGORITHMS["ppo"].options}
        used = {**config, **own, **config["learning"], **config["network"]}
        assert used["gamma"] == 0.99
        assert used["activation"] == "tanh"
        unset = {name for name, value in used.items() if value is None}
        assert unset <= {
            *("stop_at", "evaluate_every", "target_kl", "max_grad_norm", "actuators"),
            *("sensor", "chip", "alignment_every", "log_std_init", "ortho_init"),
        }
        packages = {"python", "nprobot", "torch", "mujoco", "gymnasium", "numpy"}
        assert packages < set(written["sessions"][0]["versions"])
        assert RunFolder.open(run[0].folder.path).config == run[0].folder.config

    def test_progress_has_the_names_of_sb3(self, run):
        rows = read_table(run[0].folder.progress)
        assert {"rollout/ep_rew_mean", "time/fps", "train/value_loss"} < set(rows[1])
        assert column(rows, "rollout/ep_rew_mean")[0] == [128, 256, 384, 512]
        assert column(rows, "eval/mean_reward") == ([512], [run[0].evaluation.mean])

    def test_curve_is_a_picture(self, run):
        from matplotlib.image import imread

        image = imread(run[0].folder.curve)
        assert image.shape[1] > 800
        assert image.std() > 0.02

    def test_policy_is_the_models(self, run):
        result, _ = run
        policy = policy_file.load(find_policy(result.folder.path))
        x = np.random.default_rng(0).normal(size=(50, 4))
        assert (policy.predict(x) == result.policy.predict(x)).all()
        assert policy.task.id == "InvertedPendulum-v5"
        assert policy.task.control_rate == 25.0
        assert policy.provenance["steps"] == 512
        assert policy.provenance["rule"] == "danp"

    def test_result(self, run):
        result, listener = run
        assert result.steps == 512
        # Two networks; one clean and two noisy passes; two epochs.
        assert result.forward_passes == 512 * 2 * 3 * 2
        assert result.backward_passes == 0
        assert len(result.evaluation.returns) == 20
        assert not result.interrupted
        assert any(str(result.folder.path) in message for message in listener.messages)
        assert listener.steps[-1] == 512

    def test_never_overwritten(self, run):
        before = {p: p.read_bytes() for p in run[0].folder.path.rglob("*") if p.is_file()}
        with pytest.raises(ExistsError, match="--resume"):
            train(CONFIG, run[0].folder.path)
        assert {p: p.read_bytes() for p in before} == before

    def test_default_name(self, tmp_path):
        parts = ("nprobot/ArmReach-v0", "ppo", "np+feedback", 3)
        first = default_path(*parts, root=tmp_path)
        assert first.parent == tmp_path
        assert first.name.startswith("nprobot_ArmReach-v0-ppo-np+feedback-3-")
        first.mkdir()
        assert default_path(*parts, root=tmp_path) != first

    def test_damaged_config(self, copy):
        (copy / "config.json").write_text("{")
        with pytest.raises(DamagedFileError):
            RunFolder.open(copy)
        (copy / "config.json").write_text('{"format": "nprobot-run", "version": 99}')
        with pytest.raises(NewerFileError, match="version 99"):
            RunFolder.open(copy)
        (copy / "config.json").write_text('{"format": "nprobot-fit", "version": 1}')
        with pytest.raises(ForeignFileError, match="nprobot-fit"):
            RunFolder.open(copy)


def weights(result):
    return [a for o in result.policy.operations for _, a in sorted(o.arrays.items())]


def test_same_seed_same_policy_however_often_it_is_looked_at(run, tmp_path):
    watched = dataclasses.replace(CONFIG, evaluate_every=128)
    again = train(watched, tmp_path / "again")
    assert again.evaluation == run[0].evaluation
    for a, b in zip(weights(again), weights(run[0]), strict=True):
        assert (a == b).all()


def test_another_seed_another_policy(run, tmp_path):
    other = train(dataclasses.replace(CONFIG, seed=4), tmp_path / "other")
    assert not np.allclose(weights(other)[1], weights(run[0])[1])


class TestResume:
    def test_goes_on_in_the_same_folder(self, copy):
        first = RunFolder.open(copy).config
        result = resume(copy, dataclasses.replace(first, steps=1024))
        assert result.steps == 1024
        assert result.forward_passes == 1024 * 2 * 3 * 2
        rows = read_table(result.folder.progress)
        steps = column(rows, STEPS)[0]
        assert steps == sorted(steps)
        assert column(rows, "rollout/ep_rew_mean")[0] == list(range(128, 1025, 128))
        written = json.loads((copy / "config.json").read_text())
        assert [s["from_step"] for s in written["sessions"]] == [0, 512]
        assert written["config"]["steps"] == 1024
        assert numbered(copy / "checkpoints")[0].name == "step_000001024"

    def test_from_an_earlier_checkpoint_drops_the_lost_rows(self, copy):
        shutil.rmtree(copy / "checkpoints" / "step_000000512")
        assert numbered(copy / "checkpoints")[0].name == "step_000000256"
        result = resume(copy)
        assert result.steps == 512
        rows = column(read_table(result.folder.progress), "rollout/ep_rew_mean")[0]
        assert rows == [128, 256, 384, 512]

    def test_nothing_is_lost_in_a_checkpoint(self, copy, tmp_path):
        checkpoint = numbered(copy / "checkpoints")[0]
        config = RunFolder.open(copy).config
        model = build_model(config, make_vector(config))
        before = parameters(model)
        load_checkpoint(checkpoint, model, Seeds.spawn(config.seed), print)
        assert not torch.equal(parameters(model), before)
        assert model.num_timesteps == 512
        assert model.env.obs_rms.count > 512
        saved = load_state(checkpoint / "training")
        assert saved.pop("run")["elapsed_seconds"] > 0
        save_state(tmp_path / "saved", saved)
        save_state(tmp_path / "restored", training_state(model))
        for kind in (".json", ".safetensors"):
            restored = (tmp_path / f"restored{kind}").read_bytes()
            assert restored == (tmp_path / f"saved{kind}").read_bytes()

    @pytest.mark.parametrize(
        "change", [{"rule": "np"}, {"samples": 3}, {"learning": LearningOptions(sigma=0.1)}]
    )
    def test_the_rest_stays_as_it_was(self, copy, change):
        config = dataclasses.replace(RunFolder.open(copy).config, steps=1024, **change)
        with pytest.raises(ConfigError, match="a resumed run keeps its"):
            resume(copy, config)

    def test_a_complete_run_says_how_to_go_on(self, copy):
        with pytest.raises(ConfigError, match="--steps 1024"):
            resume(copy)

    def test_no_run_and_no_checkpoint(self, copy, tmp_path):
        with pytest.raises(NotFoundError):
            resume(tmp_path / "nowhere")
        shutil.rmtree(copy / "checkpoints")
        listener = Listener()
        result = resume(copy, reporter=listener)
        assert any("starts from the beginning" in message for message in listener.messages)
        assert column(read_table(result.folder.progress), STEPS)[0] == [
            128,
            256,
            384,
            512,
            512,
            512,
        ]


def test_a_checkpoint_is_whole_or_not_there(copy, monkeypatch):
    config = dataclasses.replace(RunFolder.open(copy).config, steps=1024)

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_state", fail)
    before = sorted(p.name for p in (copy / "checkpoints").glob("step_*"))
    with pytest.raises(StorageError, match=r"at step 640: cannot write .*no space left.*--resume"):
        resume(copy, config)
    assert sorted(p.name for p in (copy / "checkpoints").glob("step_*")) == before
    assert (copy / "checkpoints" / "last").resolve().name == "step_000000512"
    monkeypatch.undo()
    assert resume(copy, config).steps == 1024
    assert not list((copy / "checkpoints").glob(".writing*"))
