"""Named columns, whatever file they come from, and how a user names several of them."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, MissingPackageError, did_you_mean

Array = NDArray[Any]


def import_optional(module: str, purpose: str) -> Any:  # noqa: ANN401 - a module
    """A module of the `data` extra, imported when a loader needs it.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(
            f"{purpose} needs {package}, which cannot be imported ({error}); install it with "
            "`pip install 'nprobot[data]'`."
        ) from error


@dataclass
class Fields:
    """What a recording holds, by name.

    Attributes:
        source: the file, for messages.
        arrays: by name, rows along the first axis.
        is_table: whether all of them are columns of one table.
        units: the units of the names that have one.
        notes: how the file was read, for people; empty if in the plainest way.
        guesses: of these, what could be a misreading.
    """

    source: str
    arrays: dict[str, Array]
    is_table: bool
    units: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)

    def matching(self, patterns: Sequence[str], what: str) -> list[str]:
        """The names that patterns mean, in the order of the patterns and of the file.

        A pattern means names of arrays; if it fits none, those of their columns: `q0`, `q1`, ….

        Raises:
            DataError: a pattern fits nothing.
        """
        columns = [column for name in self.arrays for column in self.column_names(name)]
        found: list[str] = []
        for pattern in patterns:
            if pattern in self.arrays or pattern in columns:
                found.append(pattern)
                continue
            fitting: list[str] = []
            for names in (list(self.arrays), columns):
                fitting = fitting or [n for n in names if fnmatch.fnmatchcase(n, pattern)]
            if not fitting:
                raise DataError(
                    f"{self.source} has no column {pattern!r} for the {what}"
                    f"{did_you_mean(pattern, columns)}; it has {listed(list(self.arrays), 40)}."
                )
            found += fitting
        return found

    def column_names(self, name: str) -> list[str]:
        """Names of the columns of an array, or the name itself if it is one."""
        array = self.arrays.get(name)
        if array is None or array.ndim < 2:
            return [name]
        return [f"{name}{i}" for i in range(int(np.prod(array.shape[1:])))]

    def values(self, name: str) -> Array:
        """An array, or a column of one, by name.

        Raises:
            DataError: there is none.
        """
        if name in self.arrays:
            return self.arrays[name]
        base = name.rstrip("0123456789")
        for end in range(len(base), len(name)):
            array = self.arrays.get(name[:end])
            if (
                array is not None
                and array.size
                and array.ndim > 1
                and name in self.column_names(name[:end])
            ):
                column: Array = array.reshape(len(array), -1)[:, int(name[end:])]
                return column
        raise DataError(
            f"{self.source} has no column {name!r}{did_you_mean(name, self.arrays)}; it has "
            f"{listed(list(self.arrays), 40)}."
        )

    def numbers(self, names: Sequence[str]) -> Array:
        """Columns side by side, `(rows, columns)`; 8-bit pictures scaled to [0, 1].

        Raises:
            DataError: one holds no numbers, or they have different lengths.
        """
        parts = []
        for name in names:
            array = self.values(name)
            if array.dtype.kind not in "iufb":
                raise DataError(self._no_numbers(name, array))
            if array.ndim == 0:
                raise DataError(f"{name!r} of {self.source} is one number, not a column.")
            if array.size == 0:
                raise DataError(f"{name!r} of {self.source} is empty: its shape is {array.shape}.")
            flat = array.reshape(len(array), -1)
            if array.dtype == np.uint8 and array.ndim > 1:
                flat = (flat / np.float32(255)).astype(np.float32)
            elif array.dtype.kind != "f":
                flat = flat.astype(np.float64)
            parts.append(flat)
        lengths = {name: len(part) for name, part in zip(names, parts, strict=True)}
        if len(set(lengths.values())) > 1:
            raise DataError(f"The columns of {self.source} have different lengths: {lengths}.")
        return np.concatenate(parts, axis=1)

    def _no_numbers(self, name: str, array: Array) -> str:
        what = f"Column {name!r} of {self.source} holds"
        for row, cell in enumerate(array.ravel()[:1_000_000]):
            if isinstance(cell, str):
                return f"{what} {str(cell)!r} in row {row}, no number."
        return f"{what} {array.dtype}, not numbers."


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message, not all of very many."""
    shown = ", ".join(map(repr, names[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
