"""Controls of the page, made from the dataclasses that describe what they control."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import docstring_parser
import msgspec

from nprobot.errors import ConfigError
from nprobot.options import Options, choices

Value = bool | float | str | None
Settings = TypeVar("Settings", bound=Options)

NONE = "none"
"""The choice that stands for None."""


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        name: the name of the setting.
        kind: a box to tick, a slider, a number, one of several words, or a button.
        value: the present one; None where an optional number is off.
        low: least number.
        high: largest number.
        whole: whether numbers are whole.
        words: to choose from.
        optional: whether a number can be off.
        start: what it is when a visitor switches it on.
        help: a line about it.
        danger: whether a button is red.
    """

    name: str
    kind: Literal["check", "slider", "number", "choice", "button"]
    value: Value = None
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    words: tuple[str, ...] = ()
    optional: bool = False
    start: float = 1.0
    help: str = ""
    danger: bool = False

    @property
    def label(self) -> str:
        """The name as people read it."""
        text = self.name.replace("_", " ")
        return text[:1].upper() + text[1:]

    def checked(self, value: Any) -> Value:  # noqa: ANN401 - whatever a visitor's browser sends
        """A visitor's value inside what the control allows.

        Raises:
            ConfigError: it is of another kind, or none of the words.
        """
        if self.kind in ("check", "button"):
            return bool(value)
        if self.kind == "choice":
            if value not in self.words:
                raise ConfigError(f"{self.label} is one of {', '.join(self.words)}")
            return None if value == NONE and self.optional else str(value)
        if value is None and self.optional:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{self.label} is a number") from None
        if not math.isfinite(number):
            raise ConfigError(f"{self.label} is a finite number")
        number = min(max(number, self.low), self.high)
        return round(number) if self.whole else number


@dataclass(frozen=True)
class ControlGroup:
    """Controls that stand together.

    Attributes:
        key: by which the loop knows whose wish it is.
        title: over them.
        tab: where they stand.
        controls: in order.
        open: whether they are shown without a click.
    """

    key: str
    title: str
    tab: str
    controls: tuple[Control, ...]
    open: bool = True


def controls_of(
    settings: Any,  # noqa: ANN401 - a dataclass
    *,
    words: Mapping[str, Sequence[str]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    starts: Mapping[str, float] | None = None,
    leave_out: Sequence[str] = (),
) -> tuple[Control, ...]:
    """A control for every field of a dataclass that one can stand for.

    Numbers between bounds become sliders, numbers that may be None become numbers that can be off;
    fields of words, and unions of tagged structs that need no settings, become choices. What else
    there is (texts, sequences) has no control.

    Args:
        settings: an instance.
        words: choices of fields whose type does not name them.
        ranges: the ranges of numbers whose type has no bounds.
        starts: values that numbers which can be off have when they are switched on.
        leave_out: fields without a control.
    """
    cls: Any = type(settings)
    hints = typing.get_type_hints(cls, include_extras=True)
    about = _descriptions(cls)
    made = []
    for field in dataclasses.fields(settings):
        if field.name in leave_out:
            continue
        value = getattr(settings, field.name)
        known = (words or {}).get(field.name)
        bounds = (ranges or {}).get(field.name)
        control = _control(field.name, value, hints[field.name], known, bounds)
        if control is not None:
            text = field.metadata.get("about") or about.get(field.name, "")
            start = (starts or {}).get(field.name, max(control.low, 1.0))
            made.append(dataclasses.replace(control, start=start, help=text))
    return tuple(made)


def with_value(settings: Settings, name: str, value: Value) -> Settings:
    """The settings with the value of a control.

    Raises:
        ConfigError: the value is not allowed.
    """
    hint = typing.get_type_hints(type(settings), include_extras=True)[name]
    structs = _structs(hint)
    if structs and isinstance(value, str):
        present = getattr(settings, name)
        same = structs[value] is type(present)
        return settings.replace(**{name: present if same else structs[value]()})
    return settings.replace(**{name: value})


def _control(
    name: str,
    value: Any,  # noqa: ANN401
    hint: Any,  # noqa: ANN401
    words: Sequence[str] | None,
    bounds: tuple[float, float] | None,
) -> Control | None:
    kinds, low, high, optional = _parts(hint)
    if words is not None:
        options = (NONE, *words) if optional else tuple(words)
        return Control(
            name, "choice", NONE if value is None else str(value), words=options, optional=optional
        )
    if structs := _structs(hint):
        possible = [tag for tag, cls in structs.items() if _bare(cls) or cls is type(value)]
        tag = str(type(value).__struct_config__.tag)
        return Control(name, "choice", tag, words=tuple(possible))
    if literal := choices(hint):
        return Control(name, "choice", value, words=literal)
    if bool in kinds:
        return Control(name, "check", value)
    if not kinds & {int, float} or isinstance(value, tuple):
        return None
    whole = float not in kinds
    if bounds is not None:
        low, high = bounds
    if optional:
        return Control(name, "number", value, low, high, whole, optional=True)
    if low > -math.inf and high == math.inf:
        high = max(4.0 * value, low + 1.0)  # a slider has to end somewhere
    kind: Literal["slider", "number"] = "slider" if high - low < math.inf else "number"
    return Control(name, kind, value, low, max(high, value), whole)


def _parts(hint: Any) -> tuple[set[type], float, float, bool]:  # noqa: ANN401
    """Plain types in a hint, its bounds, and whether it allows None."""
    if typing.get_origin(hint) is Annotated:
        inner, *extras = typing.get_args(hint)
        kinds, low, high, optional = _parts(inner)
        for meta in extras:
            if isinstance(meta, msgspec.Meta):
                low = next((float(b) for b in (meta.ge, meta.gt) if b is not None), low)
                high = next((float(b) for b in (meta.le, meta.lt) if b is not None), high)
        return kinds, low, high, optional
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds, low, high, optional = set(), -math.inf, math.inf, False
        for part in typing.get_args(hint):
            if part is type(None):
                optional = True
                continue
            own, own_low, own_high, _ = _parts(part)
            kinds |= own
            low, high = max(low, own_low), min(high, own_high)
        return kinds, low, high, optional
    return ({hint} if isinstance(hint, type) else set()), -math.inf, math.inf, False


def _structs(hint: Any) -> dict[str, Any]:  # noqa: ANN401
    """The tagged structs of a union, by tag; none for any other hint."""
    parts = typing.get_args(hint)
    if not parts or not all(
        isinstance(part, type) and issubclass(part, msgspec.Struct) for part in parts
    ):
        return {}
    return {str(part.__struct_config__.tag): part for part in parts}


def _bare(struct: Any) -> bool:  # noqa: ANN401
    """Whether a struct can be made without settings."""
    return all(field.default is not msgspec.NODEFAULT for field in msgspec.structs.fields(struct))


@functools.cache
def _descriptions(cls: Any) -> dict[str, str]:  # noqa: ANN401 - a class
    """What the docstrings say about the fields of a class, and of those that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            for entry in docstring_parser.parse_from_object(base).params:
                found[entry.arg_name] = " ".join((entry.description or "").split())
    return found
