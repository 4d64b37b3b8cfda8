"""Tables of text as people have them: what separates, what is a comment, a unit, a decimal comma.

What is found out is said; what cannot be told apart is refused, never guessed.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .columns import Fields, import_optional

Array = NDArray[Any]

SUFFIXES = (".csv", ".tsv", ".txt", ".dat")
_SEPARATORS = {"\t": "tab", ";": "semicolon", ",": "comma", "|": "bar", " ": "space"}
_COMMENT = ("#", "%", "//")
_MISSING = frozenset(
    ["", "na", "n/a", "nan", "-nan", "#n/a", "<na>", "null", "none", "inf", "+inf", "-inf"]
)
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_NO_UNIT = ("", "-", "1")
#: Lines that tell what a table looks like.
_SAMPLE = 200


def read_text_table(path: Path) -> Fields:
    """A table of text, whatever separates its cells.

    The separator (tab, semicolon, comma, bar or spaces), decimal commas, comment lines, a header
    in a comment, a row of units, units in brackets after a name and a byte order mark are found
    out. Cells that are no numbers are NaN where they say so; a column with other text holds text.

    Raises:
        DataError: it is no table: rows of other lengths than the header, or no rows.
    """
    text, notes = _text(path)
    lines = [(n, line) for n, line in enumerate(re.split(r"\r\n|\r|\n", text), 1) if line.strip()]
    body = [(n, line) for n, line in lines if not line.lstrip().startswith(_COMMENT)]
    comments = len(lines) - len(body)
    if not body:
        raise DataError(f"{path} cannot be read as a table: it holds no rows.")
    before = [line for n, line in lines if n < body[0][0]]
    separator = _separator([line for _, line in body[:_SAMPLE]])
    first = _cells(body[0][1], separator)
    second = _cells(body[1][1], separator) if len(body) > 1 else first
    header, guesses = first, []
    if all(_is_number(cell, separator) for cell in first):
        header = _cells(re.sub(r"^\s*(#|%|//)\s*", "", before[-1]), separator) if before else []
        if len(header) == len(first) and not any(_is_number(cell, separator) for cell in header):
            notes.append("names of the columns from a comment line")
            comments -= 1
        else:
            header = [f"column{i}" for i in range(len(first))]
            guesses.append("no line of names: columns are called column0, column1, …")
    else:
        body = body[1:]
    if comments:
        notes.append(f"{comments} comment line{'s' * (comments > 1)}")
    if separator != ",":
        notes.insert(0, f"{_SEPARATORS[separator]}-separated")
    names, units = _units_in_names(header)
    third = _cells(body[1][1], separator) if len(body) > 1 else []
    if header is first and len(second) == len(first) and _are_units(second, third, separator):
        units |= {n: u for n, cell in zip(names, second, strict=True) if (u := _unit(cell))}
        guesses.append(f"a row of units ({', '.join(filter(None, map(_unit, second)))})")
        body = body[1:]
    if not body:
        raise DataError(f"{path} cannot be read as a table: it has names and no rows.")
    _check_lengths(path, body, separator, len(header))
    sample = [cell for _, line in body[:_SAMPLE] for cell in _cells(line, separator)]
    decimal = "."
    if separator != "," and any(map(_COMMA.fullmatch, sample)):
        decimal = ","
        guesses.append("decimal comma")
    columns = _parsed(path, body, separator, decimal, len(header))
    if names[-1] == "" and _is_empty(columns[-1]):
        notes.append("a separator at the end of each line")
        names, columns = names[:-1], columns[:-1]
    names = [name or f"column{i}" for i, name in enumerate(names)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has more than one column {', '.join(map(repr, twice))}.")
    return Fields(
        path.name, dict(zip(names, columns, strict=True)), True, units, notes + guesses, guesses
    )


def _text(path: Path) -> tuple[str, list[str]]:
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        code, notes = "utf-16", ["UTF-16"]
    else:
        code, notes = "utf-8-sig", ["byte order mark"] * raw.startswith(b"\xef\xbb\xbf")
    try:
        text = raw.decode(code)
    except UnicodeDecodeError:
        text, notes = raw.decode("latin-1"), ["not UTF-8, read as Latin-1"]
    if "\0" in text:
        raise DataError(f"{path} cannot be read as a table: it is not text.")
    return text, notes


def _cells(line: str, separator: str) -> list[str]:
    if '"' in line:
        try:
            found = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
        except csv.Error:
            return [line]
        return [cell.strip() for cell in found]
    if separator == " ":
        return line.split()
    return [cell.strip() for cell in line.split(separator)]


def _separator(lines: Sequence[str]) -> str:
    """What separates the cells: what makes most of them numbers, and rows as long as the header."""
    rows = lines[1:] or lines
    best, most = ",", (-1.0, False, 0)
    for separator in _SEPARATORS:
        cells = [_cells(line, separator) for line in rows]
        width = len(_cells(lines[0], separator))
        filled = [cell for row in cells for cell in row if cell]
        numbers = sum(_is_number(cell, separator) for cell in filled)
        score = (numbers / max(len(filled), 1), all(len(row) == width for row in cells), width)
        if score > most:
            best, most = separator, score
    return best


def _is_number(cell: str, separator: str = ",") -> bool:
    """Whether a cell is a number, or says that there is none; with a decimal comma where it can."""
    if cell.lower() in _MISSING or (separator != "," and _COMMA.fullmatch(cell)):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _units_in_names(header: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Names without the units that stand behind them in brackets, and these."""
    names, units = [], {}
    for given in header:
        found = re.fullmatch(r"(.*\S)\s*(?:\[([^\[\]\d]*)\]|\s\(([^()]*)\))", given)
        name = found[1] if found else given
        if found and (unit := found[2] or found[3]):
            units[name] = unit
        names.append(name)
    return (names, units) if len(set(names)) == len(names) else (list(header), {})


def _are_units(row: Sequence[str], after: Sequence[str], separator: str) -> bool:
    """Whether a row beneath the header holds units: words over numbers, and nothing else."""
    if len(row) != len(after):
        return False
    words = [(cell, below) for cell, below in zip(row, after, strict=True) if cell not in _NO_UNIT]
    return bool(words) and all(
        not _is_number(cell, separator) and _is_number(below, separator) for cell, below in words
    )


def _unit(cell: str) -> str:
    cell = cell.strip("[]() ")
    return "" if cell in _NO_UNIT else cell


def _check_lengths(path: Path, body: Sequence[tuple[int, str]], separator: str, width: int) -> None:
    for number, line in body:
        if '"' in line or separator == " ":
            length = len(_cells(line, separator))
        else:
            length = line.count(separator) + 1
        if length != width:
            kind = "more" if length > width else "fewer"
            raise DataError(
                f"{path}, line {number}: {length} cells, {kind} than the {width} names of the "
                "columns"
                + (
                    ". A separator at the end of the rows, or a name that the header lacks, would "
                    "shift the columns: give rows and header the same length."
                    if kind == "more"
                    else "; repair or remove the line."
                )
            )


def _parsed(
    path: Path, body: Sequence[tuple[int, str]], separator: str, decimal: str, width: int
) -> list[Array]:
    pandas = import_optional("pandas", "Reading tables")
    lines = io.StringIO("\n".join(line.strip(" ") for _, line in body))
    try:
        table = pandas.read_csv(
            lines,
            sep=r"\s+" if separator == " " else separator,
            header=None,
            names=range(width),
            index_col=False,
            decimal=decimal,
            skipinitialspace=True,
            low_memory=False,
        )
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    if len(table) != len(body):
        raise DataError(
            f"{path} cannot be read as a table: {len(body)} lines make {len(table)} rows; are "
            "quotation marks missing?"
        )
    return [plain(table[i]) for i in range(width)]


def plain(column: Any) -> Array:  # noqa: ANN401 - a pandas Series
    """A column as numbers; as objects if it holds text."""
    if getattr(column.dtype, "kind", "O") in "iufb":
        array: Array = column.to_numpy(dtype=np.float64 if column.isna().any() else None)
        return array
    return np.asarray(column.to_numpy(dtype=object))


def _is_empty(column: Array) -> bool:
    return column.dtype.kind == "f" and bool(np.isnan(column).all())
