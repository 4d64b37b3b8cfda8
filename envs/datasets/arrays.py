"""Named arrays of `.npz` and MATLAB files, nested structures and version 7.3 too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .columns import Fields, import_optional
from .dataset import UNREADABLE

Array = NDArray[Any]
Found = Iterator[tuple[str, list[Array]]]
"""A name and its arrays: one, or one for each element of a structure array or a cell array."""


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an `.npz`; nothing pickled is read.

    Raises:
        DataError: it is damaged or something else.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds one bare array; save an .npz with named arrays.")
        with loaded as file:
            return {name: file[name] for name in file.files}
    except (*UNREADABLE, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as an .npz of plain arrays: {error}") from error


def read_mat(path: Path) -> list[Fields]:
    """The arrays of a MATLAB file, those of structures under names such as ``log.joint.q``.

    A structure array or a cell array of N elements is N recordings.

    Raises:
        DataError: the file is damaged, or holds no arrays of numbers.
        MissingPackageError: the package that reads it is not installed.
    """
    newer = _is_hdf5(path)
    module, purpose = ("h5py", " of version 7.3") if newer else ("scipy.io", "")
    reader = import_optional(module, f"Reading MATLAB files{purpose}")
    found: dict[str, list[Array]] = {}
    try:
        if newer:
            with reader.File(path, "r") as file:
                for name in file:
                    if not name.startswith("#"):
                        found.update(_walk_hdf5(file, name, file[name]))
        else:
            for name, value in reader.loadmat(path).items():
                if not name.startswith("__"):
                    found.update(_walk(name, value))
    # What a damaged file makes the readers raise is not documented: reading ends here either way.
    except Exception as error:
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if not found:
        raise DataError(
            f"{path} holds no arrays of numbers. MATLAB keeps tables and objects in a form that it "
            "alone reads; save a structure instead (table2struct(T, 'ToScalar', true))."
        )
    counts = {len(arrays) for arrays in found.values()} - {1}
    if len(counts) > 1:
        told = {name: len(arrays) for name, arrays in found.items() if len(arrays) > 1}
        raise DataError(f"{path} holds lists of recordings of different lengths: {told}.")
    number = counts.pop() if counts else 1
    return [
        _rows_first(
            path.name if number == 1 else f"{path.name}, element {i + 1}",
            {name: each[i] if len(each) > 1 else each[0] for name, each in found.items()},
        )
        for i in range(number)
    ]


def _rows_first(source: str, arrays: dict[str, Array]) -> Fields:
    """Arrays with their rows along the first axis: most of them have that length in common."""
    axes = [{n for n in array.shape if n > 1} for array in arrays.values()]
    lengths = sorted({n for each in axes for n in each})
    rows = max(lengths, key=lambda n: (sum(n in each for each in axes), n), default=1)
    turned = []
    for name, array in arrays.items():
        if array.ndim == 2 and 1 in array.shape:
            arrays[name] = array.ravel()
        elif array.ndim == 2 and array.shape[0] != rows and array.shape[1] == rows:
            arrays[name] = array.T
            turned.append(name)
    guesses = [f"the rows of {', '.join(turned)} along the second axis"] if turned else []
    return Fields(source, arrays, False, notes=list(guesses), guesses=guesses)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(520)
    magic = b"\x89HDF\r\n\x1a\n"
    return start.startswith(magic) or start[512:] == magic


def _walk(name: str, value: Any) -> Found:  # noqa: ANN401 - what scipy makes of a variable
    if hasattr(value, "toarray"):
        value = value.toarray()
    if not isinstance(value, np.ndarray):
        return
    elements = value.ravel()
    if value.dtype.names is not None:
        for part in value.dtype.names if len(elements) else ():
            yield from _merged([dict(_walk(f"{name}.{part}", e[part])) for e in elements])
    elif value.dtype.kind == "O":
        yield from _merged([dict(_walk(name, element)) for element in elements])
    elif value.dtype.kind in "iufb" and value.size:
        yield name, [value]


def _merged(each: list[dict[str, list[Array]]]) -> Found:
    """The arrays of the elements of a structure array or a cell array, by name."""
    for inner in each[0] if each else ():
        lists = [found.get(inner, []) for found in each]
        if all(len(arrays) == 1 for arrays in lists):
            yield inner, [arrays[0] for arrays in lists]
        elif len(lists) == 1:
            yield inner, lists[0]


def _walk_hdf5(file: Any, name: str, value: Any) -> Found:  # noqa: ANN401 - of h5py
    if hasattr(value, "keys"):
        for part in value:
            yield from _walk_hdf5(file, f"{name}.{part}", value[part])
        return
    if "MATLAB_empty" in value.attrs or value.attrs.get("MATLAB_class") == b"char":
        return
    if value.dtype.kind == "O":
        references = np.asarray(value).T.ravel()
        yield from _merged([dict(_walk_hdf5(file, name, file[to])) for to in references])
    elif value.dtype.kind in "iufb" and value.size:
        # MATLAB writes columns first: what it calls rows are columns for everybody else.
        yield name, [np.asarray(value).T]
