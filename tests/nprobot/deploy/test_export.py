"""Exported policies: complete, checked, truthful, and the same as in the run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import nprobot
from nprobot.cli import main
from nprobot.deploy import export_run
from nprobot.deploy.policy_folder import without_paths
from nprobot.envs import datasets
from nprobot.errors import DamagedFileError, DeployError, ExistsError, FileError, NotFoundError
from nprobot.policies.files.card import card
from nprobot.policies.files.policy_file import save
from nprobot.regression import track
from nprobot.training.evaluation import evaluate
from nprobot.training.run_config import AlgorithmOptions, NetworkOptions, RunConfig
from nprobot.training.training_run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = RunConfig(
        rule="danp",
        steps=256,
        envs=2,
        samples=1,
        network=NetworkOptions(hidden=(8,)),
        algorithm=AlgorithmOptions(n_steps=64, batch_size=32),
    )
    path = tmp_path_factory.mktemp("runs") / "run"
    train(config, path, command=f"nprobot train --steps 256 --out {path}")
    return path


@pytest.fixture(scope="module")
def exported(run):
    return export_run(run, run.parent / "exported", onnx=True, episodes=5, licence="MIT")


def test_folder_is_complete(exported):
    assert sorted(file.name for file in exported.folder.iterdir()) == [
        *("README.md", "curve.png", "policy.json", "policy.onnx", "policy.safetensors"),
    ]
    assert exported.onnx <= 1e-5
    assert exported.torch <= 1e-5


def test_policy_is_that_of_the_run(run, exported):
    own = nprobot.policies.load(run / "checkpoints" / "last")
    given = nprobot.policies.load(exported.folder)
    x = np.random.default_rng(0).normal(0, 1, (50, 4))
    assert (given.predict(x) == own.predict(x)).all()
    onnx = nprobot.policies.load_onnx(exported.folder)
    assert np.abs(onnx.predict(x) - own.predict(x)).max() <= 1e-5
    assert given.task == own.task == onnx.task
    assert given.task.control_rate == 25


def test_provenance_says_where_it_comes_from(exported):
    made = json.loads((exported.folder / "policy.json").read_text())["provenance"]
    assert made["licence"] == "MIT"
    assert made["rule"] == "danp"
    assert made["backward_passes"] == 0
    assert made["command"] == "nprobot train --steps 256"
    expected = evaluate(nprobot.policies.load(exported.folder), episodes=5)
    assert made["evaluation"]["returns"] == list(expected.returns)


def test_card_tells_what_the_policy_says(run, exported):
    policy = nprobot.policies.load(exported.folder)
    text = (exported.folder / "README.md").read_text()
    assert text == card(policy)
    assert f"**{exported.evaluation}**" in text
    for fact in ("InvertedPendulum-v5", "25 Hz", "4-8-1, tanh", "DANP", "Licence: MIT", "256"):
        assert fact in text
    assert "(curve.png)" in text
    assert str(run) not in text


def test_card_of_other_policies(exported):
    policy = nprobot.policies.load(exported.folder)
    made = {**policy.provenance, "rule": "np", "samples": 1, "feedback": True}
    text = card(dataclasses.replace(policy, provenance=made))
    assert "\n---\n\n# InvertedPendulum-v5 by NP + feedback\n" in text
    assert "by NP + feedback (K = 1 noisy passes)" in text
    little_known = dataclasses.replace(policy, provenance={}, task=None, normaliser=None)
    text = card(little_known, curve=False)
    assert "Not measured." in text
    assert "Licence: not stated." in text
    assert "curve.png" not in text


def test_a_checkpoint_can_be_exported(run, tmp_path):
    checkpoint = next((run / "checkpoints").glob("step_*"))
    result = export_run(checkpoint, tmp_path / "policy", episodes=0)
    assert result.evaluation is None
    assert (tmp_path / "policy" / "curve.png").exists()
    assert not (tmp_path / "policy" / "policy.onnx").exists()


def test_a_policy_folder_without_a_run_can_be_exported(exported, tmp_path):
    shutil.copytree(exported.folder, tmp_path / "a" / "b" / "source")
    result = export_run(tmp_path / "a" / "b" / "source", tmp_path / "policy", episodes=0)
    assert not (result.folder / "curve.png").exists()
    assert "curve.png" not in (result.folder / "README.md").read_text()


def test_curve_is_drawn_for_a_run_that_was_cut_off(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    (copy / "curve.png").unlink()
    result = export_run(copy, episodes=0)
    assert result.folder == copy / "policy"
    assert (result.folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_exported(run, exported, tmp_path):
    with pytest.raises(ExistsError, match="choose another --out"):
        export_run(run, exported.folder)
    with pytest.raises(DeployError, match="0 or more"):
        export_run(run, episodes=-1)
    with pytest.raises(NotFoundError):
        export_run(tmp_path / "nothing")


def test_nothing_half_written_is_left(run, tmp_path, monkeypatch):
    def disagree(*arguments):
        raise FileError("they differ")

    monkeypatch.setattr("nprobot.deploy.policy_folder.save_onnx", disagree)
    with pytest.raises(FileError):
        export_run(run, tmp_path / "policy", onnx=True, episodes=0)
    assert not (tmp_path / "policy").exists()
    monkeypatch.undo()
    assert export_run(run, tmp_path / "policy", episodes=0).folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A fit of the arm's inverse dynamics to a few rows, as a command made it."""
    data = datasets.make("arm-inverse-dynamics", train=2, validation=1, test=1, cache=False)
    path = tmp_path_factory.mktemp("fits") / "fit"
    command = f"nprobot fit --task arm-inverse-dynamics --rule danp --out {path}"
    nprobot.fit([8], data, "danp", samples=2, epochs=3, out=path, command=command)
    return path


@pytest.fixture(scope="module")
def exported_fit(fitted):
    return export_run(fitted, fitted.parent / "exported", episodes=2, licence="MIT")


class TestFits:
    """A fit of the arm's inverse dynamics is a controller, exported as a run is."""

    def test_is_complete_and_controls_the_arm(self, fitted, exported_fit):
        folder = exported_fit.folder
        files = ["README.md", "curve.png", "policy.json", "policy.safetensors"]
        assert sorted(file.name for file in folder.iterdir()) == files
        assert (folder / "curve.png").read_bytes() == (fitted / "curve.png").read_bytes()
        own = nprobot.policies.load(fitted / "checkpoints" / "last")
        given = nprobot.policies.load(folder)
        x = np.random.default_rng(0).normal(0, 1, (20, 35))
        assert (given.predict(x) == own.predict(x)).all()
        assert given.task.id == exported_fit.evaluation.env == "nprobot/ArmTrack-v0"

    def test_provenance_has_epochs_command_and_tracking_error(self, exported_fit):
        made = exported_fit.policy.provenance
        assert made["epochs"] == 3
        assert made["command"] == "nprobot fit --task arm-inverse-dynamics --rule danp"
        result = track(exported_fit.policy, episodes=2, seed=0)
        assert made["evaluation"]["tracking"] == {
            "position_error": result.position_error,
            "episode_errors": list(result.episode_errors),
            "pd_alone": track(None, episodes=2).position_error,
            "exact_model": track("exact", episodes=2).position_error,
        }

    def test_card_speaks_of_a_fit(self, exported_fit):
        text = (exported_fit.folder / "README.md").read_text("utf-8")
        error = exported_fit.policy.provenance["evaluation"]["tracking"]["position_error"]
        for fact in (
            *("fitted to `inverse-dynamics` by DANP (K = 2 noisy passes) in 3 epochs", "(35,)"),
            *(f"Tracking error **{error:.4f} rad**", "PD control alone 0.0", "feed-forward"),
        ):
            assert fact in text
        assert "environment steps" not in text

    def test_curve_is_drawn_for_a_fit_that_was_cut_off(self, fitted, tmp_path):
        copy = tmp_path / "fit"
        shutil.copytree(fitted, copy, symlinks=True)
        (copy / "curve.png").unlink()
        result = export_run(copy, episodes=0)
        assert (result.folder / "curve.png").read_bytes().startswith(b"\x89PNG")

    def test_without_pd_control_there_is_nothing_to_compare_with(self, exported_fit, tmp_path):
        task = dataclasses.replace(exported_fit.policy.task, kwargs={"control": "torque"})
        save(dataclasses.replace(exported_fit.policy, task=task), tmp_path / "source")
        result = export_run(tmp_path / "source", tmp_path / "policy", episodes=1)
        tracking = result.policy.provenance["evaluation"]["tracking"]
        assert set(tracking) == {"position_error", "episode_errors"}
        assert "PD control alone" not in (result.folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "nprobot-run"}'])
def test_a_damaged_run_is_said_to_be_one(run, text, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    (copy / "config.json").write_text(text)
    with pytest.raises(DamagedFileError):
        export_run(copy, episodes=0)


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("nprobot train --env A-v0 --out /home/me/x --seed 1", "nprobot train --env A-v0 --seed 1"),
        ("nprobot train --out=/home/me/x", "nprobot train"),
        ("nprobot train --out '/my runs/x'", "nprobot train"),
        ("nprobot train", "nprobot train"),
    ],
)
def test_the_command_on_the_card_names_no_folder(command, without):
    assert without_paths(command) == without


def test_command_line(run, tmp_path, capsys):
    arguments = ["export", str(run), "--onnx", "--episodes", "2", "--out", str(tmp_path / "p")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "ONNX to numpy" in out
    assert f"Next: nprobot deploy {tmp_path / 'p'}" in out
    assert "not stated" in out
    assert main(arguments) == 2
    assert "there already" in capsys.readouterr().err
