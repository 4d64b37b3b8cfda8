"""Policy folders on the Hugging Face Hub, without a network: what would go up, what comes down."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from nprobot.cli import main
from nprobot.deploy import hub
from nprobot.errors import DeployError, ExistsError, NotFoundError, NprobotError, StorageError
from nprobot.policies import load, zoo
from nprobot.policies.files.policy_file import save

NAME = "me/reacher"


@pytest.fixture
def folder(tmp_path):
    """A policy folder, with something private beside the policy."""
    folder = Path(shutil.copytree(zoo.folder("Reacher"), tmp_path / "reacher"))
    (folder / "diary.txt").write_text("not for others")
    return folder


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub that is a folder: `huggingface_hub` with its two ways out replaced."""
    root = tmp_path / "hub"

    class Api:
        def __init__(self, **settings):
            assert settings == {"library_name": "nprobot"}

        def create_repo(self, name, *, private, exist_ok):
            (root / name).mkdir(parents=True, exist_ok=exist_ok)
            (root / "private").write_text(json.dumps(private))
            return f"https://huggingface.co/{name}"

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
            for name in allow_patterns:
                shutil.copy(folder_path / name, root / repo_id / name)

    def download(name, *, revision, local_dir, allow_patterns):
        if not (root / name).exists():
            raise OSError(f"no repository {name}")
        local_dir.mkdir()
        (local_dir / ".cache").mkdir()
        for file in (root / name).iterdir():
            if file.name in allow_patterns:
                shutil.copy(file, local_dir)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return root


def test_only_the_files_of_the_policy_go_up_and_they_come_down_as_they_were(
    folder, server, tmp_path, capsys
):
    assert main(["push", str(folder), NAME, "--private"]) == 0
    shown = capsys.readouterr().out
    uploaded = {file.name for file in (server / NAME).iterdir()}
    assert uploaded == {"policy.json", "policy.safetensors", "README.md", "curve.png"}
    assert all(str(folder / name) in shown for name in uploaded)
    assert "diary" not in shown
    assert json.loads((server / "private").read_text()) is True

    assert main(["pull", NAME, "--out", str(tmp_path / "mine")]) == 0
    assert {file.name for file in (tmp_path / "mine").iterdir()} == uploaded
    assert load(tmp_path / "mine").provenance == load(folder).provenance


def test_a_dry_run_uploads_nothing(folder, server, capsys):
    assert main(["push", str(folder), NAME, "--dry-run"]) == 0
    assert "Nothing was uploaded." in capsys.readouterr().out
    assert not server.exists()


def test_what_is_no_policy_is_refused_before_anything_goes_up(folder, server, tmp_path):
    with pytest.raises(NotFoundError, match="nprobot export"):
        hub.push(tmp_path, NAME)
    with pytest.raises(DeployError, match="OWNER/NAME"):
        hub.push(folder, "reacher")
    save(load(folder), tmp_path / "bare")
    with pytest.raises(DeployError, match="no card"):
        hub.push(tmp_path / "bare", NAME)
    assert not server.exists()


def test_a_policy_that_was_tampered_with_leaves_nothing_behind(folder, server, tmp_path):
    hub.push(folder, NAME)
    tensors = server / NAME / "policy.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8] + bytes(8))
    with pytest.raises(NprobotError):
        hub.pull(NAME, tmp_path / "mine")
    with pytest.raises(StorageError, match="no repository"):
        hub.pull("me/nothing", tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "reacher"]
    with pytest.raises(ExistsError):
        hub.pull(NAME, folder)


@pytest.mark.parametrize("name", zoo.names())
def test_the_hub_understands_the_cards(name):
    card = huggingface_hub.ModelCard.load(zoo.folder(name) / "README.md")
    assert card.data.library_name == "nprobot"
    assert card.data.license == "mit"
    assert {"nprobot", "node-perturbation"} <= set(card.data.tags)
    (result,) = card.data.eval_results
    assert result.dataset_name == zoo.load_policy(name).task.id
    assert f"**{result.metric_value}**" in card.text
