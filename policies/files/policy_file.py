"""Policy files: a folder of two files that describes a `Policy`, and that can run no code.

``policy.json`` describes the policy (the network as a list of operations, the observation
normaliser, the bounds of the action space, the environment, where it comes from);
``policy.safetensors`` holds the numbers. R of decorrelated layers is already multiplied into the
weights. `nprobot.policies.files.from_sb3` makes a `Policy` from a trained model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ...errors import DamagedFileError, FileError, ForeignFileError, NewerFileError, NotFoundError
from .policy import (
    LARGEST,
    Array,
    BoxAction,
    ControlTask,
    DiscreteAction,
    Normaliser,
    Operation,
    Policy,
    check_provenance,
)
from .reading import check_texts, read_file

FORMAT = "nprobot-policy"
VERSION = 1
DESCRIPTION_FILE = "policy.json"
TENSORS_FILE = "policy.safetensors"
LARGEST_DESCRIPTION = 4 * 2**20
"""Bytes."""
SLOWEST, FASTEST = 1e-3, 1e6
"""Hz, between which a control rate lies."""


def save(policy: Policy, folder: str | Path) -> Path:
    """Write a policy as ``policy.safetensors`` and ``policy.json``.

    Args:
        policy: the policy.
        folder: where to; made if it is not there.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description, tensors = _describe(policy)
    data = safetensors.numpy.save(tensors, metadata={"format": FORMAT})
    description["tensors"] = {"file": TENSORS_FILE, "sha256": _sha256(data)}
    text = json.dumps(description, indent=2, allow_nan=False)
    (folder / TENSORS_FILE).write_bytes(data)
    (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def load(path: str | Path) -> Policy:
    """Read a policy.

    Args:
        path: the folder that holds ``policy.json`` and ``policy.safetensors``, or one of the two.

    Returns:
        The policy; only numpy is needed to use it.

    Raises:
        NotFoundError: there is no policy.
        ForeignFileError: the file is something else, or too large to be a policy.
        NewerFileError: a newer version of nprobot wrote it.
        DamagedFileError: it is incomplete, altered or contradicts itself.
    """
    folder = Path(path)
    if folder.name in (DESCRIPTION_FILE, TENSORS_FILE):
        folder = folder.parent
    file = folder / DESCRIPTION_FILE
    with as_damaged(file):
        description = _read_description(file)
        tensors = _read_tensors(folder / TENSORS_FILE, description["tensors"]["sha256"])
        return _policy(description, tensors)


@contextmanager
def as_damaged(file: str | Path) -> Iterator[None]:
    """Turn what goes wrong with the content of a file into a `DamagedFileError`."""
    try:
        yield
    except FileError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedFileError(f"{file} cannot be understood: {what:.400}") from error
    except RecursionError:
        raise DamagedFileError(f"{file} is nested too deeply") from None
    except MemoryError:
        raise DamagedFileError(f"{file} needs more memory than there is") from None


def check_format(description: object, written: str, newest: int, file: str | Path) -> None:
    """Refuse a description that is not ours, or newer than this software.

    Args:
        description: a JSON object with "format" and "version".
        written: the format that we write.
        newest: the newest version of it that can be read.
        file: for the messages.

    Raises:
        ForeignFileError: another format.
        NewerFileError: a newer version.
        DamagedFileError: the version is no number.
    """
    if not isinstance(description, dict) or description.get("format") != written:
        raise ForeignFileError(f"{file} is not a policy of nprobot (no format {written!r})")
    version = description.get("version")
    if not isinstance(version, int) or version < 1:
        raise DamagedFileError(f"{file} has the version {version!r:.80}")
    if version > newest:
        raise NewerFileError(
            f"{file} has version {version!s:.80}; this nprobot reads up to {newest}. Upgrade "
            "nprobot."
        )


def read_control_rate(rate: Any) -> float | None:  # noqa: ANN401 - JSON
    """A control rate, Hz, or None where none was known.

    Raises:
        ValueError: it is not a number, or none that a robot could have.
    """
    if rate is None:
        return None
    if isinstance(rate, bool) or not SLOWEST <= rate <= FASTEST:
        raise ValueError(f"a control rate of {rate!r} Hz")
    return float(rate)


def _describe(policy: Policy) -> tuple[dict[str, Any], dict[str, Array]]:
    """The JSON description, and the tensors it names."""
    tensors: dict[str, Array] = {}

    def store(name: str, array: Array) -> str:
        tensors[name] = np.ascontiguousarray(array)
        return name

    normaliser, action, task = policy.normaliser, policy.action, policy.task
    description: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "observation": {"shape": list(policy.observation_shape), "normaliser": None},
        "network": [
            operation.describe(f"network.{i}", store)
            for i, operation in enumerate(policy.operations)
        ],
    }
    if normaliser is not None:
        description["observation"]["normaliser"] = {
            "mean": store("observation.mean", normaliser.mean),
            "var": store("observation.var", normaliser.var),
            "epsilon": normaliser.epsilon,
            "clip": normaliser.clip,
        }
    if isinstance(action, BoxAction):
        description["action"] = {
            "kind": "box",
            "low": store("action.low", action.low),
            "high": store("action.high", action.high),
            "mapping": action.mapping,
        }
    else:
        kind = "multi_discrete" if action.several else "discrete"
        description["action"] = {"kind": kind, "choices": list(action.choices)}
    description["environment"] = task and {
        "id": task.id,
        "kwargs": dict(task.kwargs),
        "control_rate": task.control_rate,
    }
    description["provenance"] = dict(policy.provenance)
    return description, tensors


def _read_description(file: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads(read_file(file, LARGEST_DESCRIPTION).decode())
    except FileNotFoundError:
        raise NotFoundError(
            f"no policy at {file.parent}: it has no {file.name}. A policy is a folder with "
            f"{DESCRIPTION_FILE} and {TENSORS_FILE}, such as RUN/checkpoints/last."
        ) from None
    check_format(description, FORMAT, VERSION, file)
    check_texts(description)
    return description


def _read_tensors(file: Path, sha256: str) -> dict[str, Array]:
    try:
        data = read_file(file, LARGEST)
    except FileNotFoundError:
        raise NotFoundError(f"{file} is missing; copy the whole folder") from None
    if _sha256(data) != sha256:
        raise DamagedFileError(f"{file} is not the file that {DESCRIPTION_FILE} was written with")
    try:
        tensors: dict[str, Array] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError) as error:
        raise DamagedFileError(f"{file} is not a readable safetensors file: {error}") from None
    return tensors


def _policy(description: Mapping[str, Any], tensors: Mapping[str, Array]) -> Policy:
    observation, normaliser = description["observation"], description["observation"]["normaliser"]
    task = description["environment"]
    return Policy(
        observation_shape=tuple(observation["shape"]),
        operations=tuple(Operation.read(entry, tensors) for entry in description["network"]),
        action=_action(description["action"], tensors),
        normaliser=normaliser
        and Normaliser(
            mean=tensors[normaliser["mean"]],
            var=tensors[normaliser["var"]],
            epsilon=float(normaliser["epsilon"]),
            clip=float(normaliser["clip"]),
        ),
        task=read_task(task, task and task["control_rate"]),
        provenance=check_provenance(description["provenance"]),
    )


def read_task(task: Any, rate: Any) -> ControlTask | None:  # noqa: ANN401 - JSON
    """The environment in a description.

    Raises:
        ValueError: it is none.
    """
    if task is None:
        return None
    if not isinstance(task["id"], str) or not isinstance(task["kwargs"], dict):
        raise ValueError(f"an environment {task!r:.80}")
    return ControlTask(task["id"], task["kwargs"], read_control_rate(rate))


def _action(action: Mapping[str, Any], tensors: Mapping[str, Array]) -> BoxAction | DiscreteAction:
    if action["kind"] == "box":
        return BoxAction(tensors[action["low"]], tensors[action["high"]], action["mapping"])
    if action["kind"] in ("discrete", "multi_discrete"):
        return DiscreteAction(tuple(action["choices"]), action["kind"] == "multi_discrete")
    raise ValueError(f"unknown kind of action {action['kind']!r}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
