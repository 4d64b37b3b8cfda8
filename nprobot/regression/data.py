"""What `fit` takes as data: a data set, or plain arrays that are split here."""

from __future__ import annotations

import hashlib
from typing import TypeAlias

from numpy.typing import ArrayLike

from nprobot.envs.datasets import Dataset, split_rows
from nprobot.errors import ConfigError

Data: TypeAlias = "Dataset | tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]"


def as_dataset(data: Data) -> Dataset:
    """A data set from what a user has.

    Args:
        data: a `Dataset`, or arrays (inputs, targets) or (inputs, targets, trajectory), which
            `nprobot.envs.datasets.split_rows` splits.

    Raises:
        DataError: the arrays are no data.
        ConfigError: it is neither.
    """
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise ConfigError(
            "data must be a Dataset from nprobot.envs.datasets, or arrays (inputs, targets) or "
            f"(inputs, targets, trajectory); got {type(data).__name__}"
        )
    splits = split_rows(*data)
    inputs, targets = splits.train.inputs.shape[1], splits.train.targets.shape[1:]
    names = ("label",) if not targets else tuple(f"y{i}" for i in range(targets[0]))
    return Dataset(
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        shifted=None,
        input_names=tuple(f"x{i}" for i in range(inputs)),
        input_units=("",) * inputs,
        target_names=names,
        target_units=("",) * len(names),
        meta={"task": "arrays", "split": splits.how},
    )


def fingerprint(data: Dataset) -> str:
    """A hash of the rows that learning sees, so that a resumed fit meets the same ones."""
    digest = hashlib.sha256()
    for split in (data.train, data.validation):
        for array in (split.inputs, split.targets):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
