"""Folders of checkpoints: each written whole and renamed, with a checksum over every file.

    checkpoints/
        step_000100000/     any files, and checkpoint.json with their sizes and SHA-256
        last                points at the newest
        damaged_step_…      set aside when a run went on from an earlier one

What is in the files is up to the room that writes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nprobot.errors import (
    ArchitectureError,
    DamagedFileError,
    ForeignFileError,
    NewerFileError,
    NprobotError,
)
from nprobot.policies.files.reading import open_file, read_file

from .atomic_files import reporting_storage, sync

LAST = "last"
MANIFEST = "checkpoint.json"
FORMAT = "nprobot-checkpoint"
VERSION = 1
LARGEST = 2**24
"""Bytes of a description."""

_UNFINISHED = ".writing_"
_DAMAGED = "damaged_"


def write_checkpoint(folder: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Write ``step_<step>`` under another name, rename it, and let ``last`` point at it.

    Args:
        folder: the folder of the checkpoints.
        step: number of the checkpoint.
        fill: writes the files into the folder that it is given.

    Returns:
        The checkpoint; the one that is there if that step has a whole one.

    Raises:
        StorageError: the disk is full, the folder read-only, …; earlier checkpoints are as before.
    """
    final = folder / f"step_{step:09d}"
    if final.exists() and is_whole(final):
        return final
    unfinished = folder / f"{_UNFINISHED}{final.name}"
    with reporting_storage(final):
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a run that was killed
        try:
            unfinished.mkdir(parents=True)
            fill(unfinished)
            _describe(unfinished, step)
            for file in unfinished.iterdir():
                sync(file)
            sync(unfinished)
            if final.exists():
                set_aside(final)
            os.rename(unfinished, final)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        point_at(final)
    return final


def point_at(checkpoint: Path) -> None:
    """Let ``last`` point at a checkpoint."""
    folder = checkpoint.parent
    with reporting_storage(folder / LAST):
        link = folder / f".{LAST}"
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint.name)
        os.replace(link, folder / LAST)
        sync(folder)


def newest_whole(folder: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is as it was written.

    Args:
        folder: the folder of the checkpoints.
        report: told, in a line, of each newer one that is damaged.

    Returns:
        The checkpoint; None if none was ever made.

    Raises:
        DamagedFileError: there are checkpoints, and each of them is damaged.
        NewerFileError: the newest was written by a newer version of this software.
    """
    problems = []
    for path in numbered(folder):
        try:
            check(path)
        except (DamagedFileError, ForeignFileError) as error:
            problems.append(str(error))
        else:
            for problem in problems:
                report(f"{problem}; using {path.name} instead")
            return path
    if problems:
        raise DamagedFileError(f"no checkpoint can be used: {'; '.join(problems)}")
    return None


def numbered(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first, damaged ones among them."""
    found = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written."""
    try:
        check(path)
    except (DamagedFileError, ForeignFileError, NewerFileError):
        return False
    return True


def check(path: Path) -> None:
    """Compare every file of a checkpoint with its checksum.

    Raises:
        DamagedFileError: a file is missing, or is not as it was written.
        ForeignFileError: it is no checkpoint of this software.
        NewerFileError: a newer version of this software wrote it.
    """
    for name, entry in _files(path).items():
        damaged = f"checkpoint {path.name} is damaged"
        try:
            with open_file(path / name) as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != entry["bytes"]:
                    raise DamagedFileError(
                        f"{damaged}: {name} has {size:,} bytes instead of {entry['bytes']:,}"
                    )
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except (FileNotFoundError, ForeignFileError) as error:
            raise DamagedFileError(f"{damaged}: {name} cannot be read ({error})") from error
        if digest != entry["sha256"]:
            raise DamagedFileError(f"{damaged}: the checksum of {name} is wrong")


@contextmanager
def as_damaged(checkpoint: Path) -> Iterator[None]:
    """Turn whatever goes wrong with the contents of a checkpoint into a `DamagedFileError`.

    Its checksums were right, so somebody has written what is in it; but not this software.
    """
    try:
        yield
    except (NprobotError, ArchitectureError):
        raise
    except Exception as error:
        raise DamagedFileError(
            f"checkpoint {checkpoint.name} is damaged: {type(error).__name__}: {error}"
        ) from error


def set_aside(path: Path) -> None:
    """Give a damaged checkpoint a name under which nothing looks for it; it is not deleted."""
    aside = path.with_name(f"{_DAMAGED}{path.name}")
    with reporting_storage(aside):
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)


def keep_up_to(folder: Path, checkpoint: Path | None) -> None:
    """Leave only what a run continues from: later checkpoints are set aside, unfinished ones go.

    Args:
        folder: the folder of the checkpoints.
        checkpoint: from `newest_whole`; None to begin again.

    Raises:
        StorageError: the folder cannot be written.
    """
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)
    if checkpoint is None:
        return
    for path in numbered(folder):
        if path == checkpoint:
            break
        set_aside(path)
    point_at(checkpoint)


def _describe(path: Path, step: int) -> None:
    files = {
        file.name: {"bytes": len(data := file.read_bytes()), "sha256": _sha256(data)}
        for file in sorted(path.iterdir())
    }
    content = {"format": FORMAT, "version": VERSION, "step": step, "files": files}
    (path / MANIFEST).write_bytes(_signed(content).encode())


def _signed(content: dict[str, Any]) -> str:
    """A manifest with its own checksum: a flipped bit in it is damage, not another version."""
    return json.dumps({**content, "sha256": _digest(content)}, indent=1) + "\n"


def _files(path: Path) -> dict[str, Any]:
    """Names, sizes and checksums of the files of a checkpoint, from a sound manifest."""
    damaged = f"checkpoint {path.name} is damaged: {MANIFEST}"
    try:
        text = read_file(path / MANIFEST, LARGEST).decode()
        content = json.loads(text)
    except (OSError, ForeignFileError) as error:
        raise DamagedFileError(f"{damaged} cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{damaged} is not readable JSON") from error
    if not isinstance(content, dict) or "sha256" not in content:
        raise ForeignFileError(f"{path / MANIFEST} is no description of a checkpoint of nprobot")
    del content["sha256"]
    if text != _signed(content):
        raise DamagedFileError(f"{damaged} does not have its own checksum")
    if content.get("format") != FORMAT:
        raise ForeignFileError(f"{path / MANIFEST} has the format {content.get('format')!r}")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise NewerFileError(
            f"checkpoint {path.name} has format version {version}; this nprobot reads up to "
            f"{VERSION}. Upgrade nprobot."
        )
    files = content.get("files")
    if not isinstance(files, dict) or not all(_is_entry(n, e) for n, e in files.items()):
        raise DamagedFileError(f"{damaged} does not list its files")
    return files


def _is_entry(name: str, entry: object) -> bool:
    # A plain name: nobody makes us read elsewhere.
    described = isinstance(entry, dict) and type(entry.get("bytes")) is int and "sha256" in entry
    return Path(name).name == name and described


def _digest(content: dict[str, Any]) -> str:
    return _sha256(json.dumps(content, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
