"""A learned function in the units of its data: network and standardisation, saved as one.

On disk it is a ``model.json`` that describes the network and names inputs and targets, and a
``model.safetensors`` with the numbers; reading it runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from nprobot.envs.datasets import Dataset, moments
from nprobot.errors import (
    ArchitectureError,
    DamagedFileError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
    NprobotError,
)
from nprobot.policies.layers import DecorrelatedLinear
from nprobot.policies.networks import ACTIVATIONS, mlp
from nprobot.runs.folder import find_policy

FORMAT = "nprobot-model"
VERSION = 1
STEM = "model"
_CHUNK = 8192

DataDescription = dict[str, Any]


class FittedModel(nn.Module):
    """A network on standardised inputs, and, for regression, with standardised targets.

    Args:
        network: from standardised inputs (B, inputs) to standardised targets (B, targets), or to
            one logit a class (B, classes).
        description: what the inputs and targets are; see `describe_data`.

    Attributes:
        network: the network.
        description: JSON values: `task`, `input_names`, `input_units`, `target_names`,
            `target_units`, `classes` (None for regression), `meta`.
        input_mean: buffer, `(inputs,)`, float64; `input_scale` is its like.
        target_mean: buffer, `(targets,)`, float64; `target_scale` is its like. 0 and 1 for
            classification.
    """

    input_mean: Tensor
    input_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, network: nn.Module, description: DataDescription) -> None:
        super().__init__()
        self.network = network
        self.description = description
        inputs = len(description["input_names"])
        outputs = description["classes"] or len(description["target_names"])
        for name, size in (("input", inputs), ("target", outputs)):
            self.register_buffer(f"{name}_mean", torch.zeros(size, dtype=torch.float64))
            self.register_buffer(f"{name}_scale", torch.ones(size, dtype=torch.float64))

    @classmethod
    def for_data(cls, network: nn.Module, data: Dataset) -> FittedModel:
        """A model with the means and scales of a data set's training rows."""
        model = cls(network, describe_data(data))
        parts = [("input", data.train.inputs)]
        if not data.is_classification:
            parts.append(("target", data.train.targets))
        for name, values in parts:
            mean, scale = moments(values)
            getattr(model, f"{name}_mean").copy_(torch.from_numpy(mean))
            getattr(model, f"{name}_scale").copy_(torch.from_numpy(scale))
        return model

    @property
    def classes(self) -> int | None:
        """Number of classes; None for regression."""
        classes: int | None = self.description["classes"]
        return classes

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers that the network computes with."""
        return next(self.network.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return next(self.network.parameters()).device

    def standardise(self, inputs: Tensor) -> Tensor:
        """Inputs (..., inputs) as the network takes them."""
        return ((inputs - self.input_mean) / self.input_scale).to(self.dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """Targets (B, targets) in their own units, or logits (B, classes), of raw inputs."""
        outputs: Tensor = self.network(self.standardise(inputs))
        return outputs * self.target_scale + self.target_mean

    @torch.no_grad()
    def outputs(self, inputs: ArrayLike) -> NDArray[np.float64]:
        """`forward` for numpy arrays (rows, inputs)."""
        rows = np.asarray(inputs, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.input_mean):
            raise ArchitectureError(
                f"this model takes rows of {len(self.input_mean)} inputs "
                f"({', '.join(self.description['input_names'][:4])}, …); got shape {rows.shape}"
            )
        chunks = [
            self(torch.tensor(rows[i : i + _CHUNK], device=self.device)).cpu().numpy()
            for i in range(0, max(len(rows), 1), _CHUNK)
        ]
        return np.concatenate(chunks)

    def predict(self, inputs: ArrayLike) -> NDArray[Any]:
        """What the model says.

        Args:
            inputs: raw, `(…, inputs)`, in the units of the data.

        Returns:
            Regression: `(…, targets)`, in their units. Classification: labels `(…,)`.
        """
        given = np.asarray(inputs, dtype=np.float64)
        outputs = self.outputs(given.reshape(-1, given.shape[-1]) if given.ndim else given)
        lead = given.shape[:-1]
        if self.classes:
            return np.asarray(outputs.argmax(-1).reshape(lead))
        return outputs.reshape(*lead, outputs.shape[-1])


def describe_data(data: Dataset) -> DataDescription:
    """What a model has to know about the data it was fitted to."""
    return {
        "task": data.meta.get("task", "data"),
        "input_names": list(data.input_names),
        "input_units": list(data.input_units),
        "target_names": list(data.target_names),
        "target_units": list(data.target_units),
        "classes": data.classes,
        "meta": json.loads(json.dumps(dict(data.meta), default=str)),
    }


def describe_network(network: nn.Module) -> DataDescription | None:
    """How `mlp` would build a network; None for one that it could not have built."""
    layers = list(network.children())
    if type(network) is not nn.Sequential or len(layers) % 2 == 0:
        return None
    linear, between = layers[::2], layers[1::2]
    kinds = {type(layer) for layer in linear}
    if kinds not in ({nn.Linear}, {DecorrelatedLinear}) or any(x.bias is None for x in linear):
        return None
    for name, make in ACTIVATIONS.items():
        if all(repr(layer) == repr(make()) for layer in between):
            return {
                "sizes": [linear[0].in_features, *(layer.out_features for layer in linear)],
                "activation": name,
                "decorrelated": kinds == {DecorrelatedLinear},
            }
    return None


def save(model: FittedModel, folder: str | Path) -> Path:
    """Write a model as ``model.safetensors`` and ``model.json``.

    Args:
        model: the model.
        folder: where to; made if it is not there.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    # Not by safetensors' own writing: what a full disk does to that is not an OSError.
    (folder / f"{STEM}.safetensors").write_bytes(safetensors.torch.save(tensors))
    description = {
        "format": FORMAT,
        "version": VERSION,
        "network": describe_network(model.network),
        "data": model.description,
    }
    text = json.dumps(description, indent=2, ensure_ascii=False)
    (folder / f"{STEM}.json").write_text(text + "\n", encoding="utf-8")
    return folder


def load(path: str | Path, network: nn.Module | None = None) -> FittedModel:
    """Read a model.

    Args:
        path: the folder of a fit (its newest checkpoint counts), or a folder with ``model.json``.
        network: a network of the same architecture, to be filled; needed only for one that was not
            made by `nprobot.policies.mlp`.

    Raises:
        NotFoundError: there is no model.
        DamagedFileError: it cannot be read.
        ForeignFileError: it is something else.
        NewerFileError: it was written by a newer version of this software.
        ArchitectureError: the file does not say how the network is built and none was given, or
            the given one does not fit.
    """
    folder = find_policy(Path(path))
    file = folder / f"{STEM}.json"
    if not file.exists():
        raise NotFoundError(
            f"there is no model at {path}: it has no {file.name}; give a run of fit"
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise ForeignFileError(
                f"{file} has the format {description['format']!r}; this nprobot reads {FORMAT!r}"
            )
        if description["version"] > VERSION:
            raise NewerFileError(
                f"{file} has format version {description['version']}; this nprobot reads up to "
                f"version {VERSION}. Upgrade nprobot."
            )
        tensors = safetensors.torch.load_file(folder / f"{STEM}.safetensors")
        model = FittedModel(network or _build(description["network"], file), description["data"])
    except NprobotError:
        raise
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise DamagedFileError(f"the model at {folder} cannot be read: {error!r}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ArchitectureError(
            f"the network does not fit the model at {folder}: {error}"
        ) from None
    return model.eval()


def _build(network: Mapping[str, Any] | None, file: Path) -> nn.Module:
    if network is None:
        raise ArchitectureError(
            f"{file} does not say how its network is built, because nprobot.policies.mlp did not "
            "build it; make the same network and pass it: load(path, network)"
        )
    return mlp(network["sizes"], network["activation"], network["decorrelated"])
