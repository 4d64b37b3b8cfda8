"""Policies by reference: a folder, a run, an ONNX file, or a name in the zoo."""

from __future__ import annotations

from pathlib import Path

from nprobot.errors import ConfigError, ForeignFileError
from nprobot.policies import zoo
from nprobot.policies.files.onnx_file import ONNX_FILE, OnnxPolicy, load_onnx
from nprobot.policies.files.policy import Policy
from nprobot.policies.files.policy_file import load
from nprobot.training.folder import find_policy

ZOO = "zoo:"
BACKENDS = ("numpy", "onnx")


def policy_folder(reference: str | Path) -> Path:
    """The folder or file that a reference means.

    Args:
        reference: ``zoo:NAME``, a run folder (its newest checkpoint counts), a policy folder, or a
            file in one.

    Raises:
        NotFoundError: the zoo has no such policy.
        ForeignFileError: it is a stable-baselines3 file.
    """
    text = str(reference)
    if text.startswith(ZOO):
        return zoo.folder(text.removeprefix(ZOO))
    if text.endswith(".zip"):
        raise ForeignFileError(
            f"{text} may be a stable-baselines3 model. Reading one can run code that is in it; if "
            "you trust it, nprobot.policies.load_trusted_sb3_zip reads it in Python and "
            "nprobot.policies.save writes a policy folder."
        )
    return find_policy(Path(text))


def load_policy(reference: str | Path, *, backend: str = "numpy") -> Policy | OnnxPolicy:
    """A policy on disk or in the zoo; nothing in the files is executed.

    Args:
        reference: as of `policy_folder`; a file that ends in ``.onnx`` is read as such.
        backend: "numpy", or "onnx" for the `policy.onnx` in the folder.

    Raises:
        FileError: there is no such policy, or it cannot be used.
    """
    if backend not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise ConfigError(f"unknown backend {backend!r}; known: {known}")
    path = policy_folder(reference)
    if path.suffix == ".onnx":
        return load_onnx(path)
    return load_onnx(path / ONNX_FILE) if backend == "onnx" else load(path)
