"""Settings as frozen dataclasses that are checked when they are made.

What a field may hold stands in its type, and `msgspec` compares:

    @dataclass(frozen=True)
    class Search(Options):
        trials: Count = 20
        sampler: Literal["tpe", "random"] = "tpe"
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
import numpy as np
from msgspec import Meta

from .errors import ConfigError, UnknownNameError

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]

_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
}
_BOUNDS = {">": "above {}", ">=": "{} or more", "<": "below {}", "<=": "{} or less"}


class Options:
    """The base of configurations.

    Raises:
        ConfigError: (when made) a value does not fit the type of its field, or is not finite.
        UnknownNameError: a word is not one of those that its field allows.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    """Names that options had in earlier versions, and what they are called now."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            if not isinstance(value, Options):
                object.__setattr__(self, name, _checked(name, value, hint))
        self.check()

    def check(self) -> None:
        """Refuse options that contradict each other; subclasses say which."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """The options in a JSON object.

        Args:
            values: by name; names of earlier versions are understood.
            where: what stands before the names in messages.

        Raises:
            UnknownNameError: a key is not the name of an option.
            ConfigError: a value is not allowed.
        """
        hints = _hints(cls)
        arguments: dict[str, Any] = {}
        for given, value in cls.upgraded(values).items():
            if given not in hints:
                raise UnknownNameError("option", f"{where}{given}", [where + n for n in hints])
            group = hints[given]
            if isinstance(group, type) and issubclass(group, Options):
                value = group.from_dict(value, f"{where}{given}.")
            arguments[given] = value
        return cls(**arguments)

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object as this version would have written it."""
        return {cls.renamed.get(name, name): value for name, value in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def replace(self, **changes: Any) -> Self:
        """The same options but for some."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def choices(hint: Any) -> tuple[str, ...]:  # noqa: ANN401 - a type
    """The words that a field allows; empty if it is not a field of words."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(word for part in typing.get_args(hint) for word in choices(part))
    return ()


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: Any) -> dict[str, Any]:  # noqa: ANN401 - a dataclass
    """Types of the fields of a class, by name; found out once."""
    if cls not in _HINTS:
        hints = typing.get_type_hints(cls, include_extras=True)
        _HINTS[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _HINTS[cls]


def _checked(name: str, value: Any, hint: Any) -> Any:  # noqa: ANN401
    if isinstance(value, np.generic):
        value = value.item()
    words = choices(hint)
    if isinstance(value, str) and words and value not in words:
        raise UnknownNameError(name, value, words, f"Known: {', '.join(words)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} must be finite, got {value!r}")
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name} must be {_allowed(str(error))}, got {value!r}") from None


def _allowed(complaint: str) -> str:
    """What `msgspec` expected, in words: ``Expected `int` >= 1`` to ``1 or more``."""
    found = re.match(r"Expected `(\w+)[^`]*`(?: (\S+) ([^\s,]+))?", complaint)
    if found is None:
        return f"something else ({complaint})"
    kind, comparison, bound = found.groups()
    if comparison in _BOUNDS:
        return _BOUNDS[comparison].format(f"{float(bound):g}")
    return _KINDS.get(kind, f"of type {kind}")
