"""Policy folders on the Hugging Face Hub: thin wrappers around `huggingface_hub`.

What is uploaded are the files of a policy folder by name, and nothing else that lies beside them.
What is downloaded is checked as a policy of a stranger: read, and never executed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nprobot.errors import (
    DeployError,
    ExistsError,
    MissingPackageError,
    NotFoundError,
    StorageError,
)
from nprobot.policies.files import policy_file
from nprobot.policies.files.card import CARD_FILE, CURVE_FILE
from nprobot.policies.files.onnx_file import ONNX_FILE
from nprobot.policies.files.policy_file import DESCRIPTION_FILE, TENSORS_FILE

FILES = (DESCRIPTION_FILE, TENSORS_FILE, CARD_FILE, CURVE_FILE, ONNX_FILE)
"""What of a policy folder goes up and comes down."""


def files_of(folder: str | Path) -> list[Path]:
    """The files of a policy folder that `push` uploads.

    Raises:
        NotFoundError: it is no policy folder.
        FileError: the policy in it cannot be used.
        DeployError: it has no card.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION_FILE).exists():
        raise NotFoundError(f"{folder} is no policy folder; make one with nprobot export RUN")
    policy_file.load(folder)
    if not (folder / CARD_FILE).exists():
        raise DeployError(f"{folder} has no card ({CARD_FILE}); make one with nprobot export RUN")
    return [folder / name for name in FILES if (folder / name).exists()]


def push(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload a policy folder; the repository is made if it is not there.

    Args:
        folder: a policy folder.
        repository: ``"owner/name"`` on the Hub.
        private: whether a repository that is made now is hidden from others.

    Returns:
        The address of the repository.

    Raises:
        NprobotError: as `files_of`; `huggingface_hub` is missing; or the Hub refuses.
    """
    files = files_of(folder)
    _check(repository)
    api = _hub().HfApi(library_name="nprobot")
    with _hub_errors(f"pushing to {repository}"):
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[file.name for file in files],
            commit_message="Policy by nprobot",
        )
    return str(url)


def pull(repository: str, out: str | Path, *, revision: str | None = None) -> Path:
    """Download a policy folder; it appears whole and checked, or not at all.

    Args:
        repository: ``"owner/name"`` on the Hub.
        out: the folder to make.
        revision: a branch, a tag or a commit; by default the newest.

    Returns:
        `out`.

    Raises:
        NprobotError: `out` is there already; `huggingface_hub` is missing; the Hub refuses; or what
            came is no policy that can be used.
    """
    target = Path(out)
    if target.exists():
        raise ExistsError(f"{target} is there already; choose another --out, or remove it")
    _check(repository)
    writing = target.with_name(f".{target.name}.writing")
    shutil.rmtree(writing, ignore_errors=True)
    try:
        with _hub_errors(f"pulling from {repository}"):
            _hub().snapshot_download(
                repository, revision=revision, local_dir=writing, allow_patterns=list(FILES)
            )
        shutil.rmtree(writing / ".cache", ignore_errors=True)  # the Hub's notes on the download
        policy_file.load(writing)
        writing.rename(target)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    return target


def _check(repository: str) -> None:
    owner, slash, name = repository.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise DeployError(f"a repository is OWNER/NAME, got {repository!r}")


def _hub() -> Any:  # noqa: ANN401 - a module
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingPackageError(
            f"push and pull need `pip install 'nprobot[hub]'` ({error})"
        ) from error
    return huggingface_hub


@contextmanager
def _hub_errors(doing: str) -> Iterator[None]:
    """Say in one line what the Hub, or the way there, has against it."""
    hub = _hub()
    try:
        yield
    except (hub.errors.HfHubHTTPError, hub.errors.LocalTokenNotFoundError, OSError) as error:
        raise StorageError(f"{doing} failed: {error}") from error
