"""Configurations: checked when they are made, read back from JSON, old names understood."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pytest

from nprobot.errors import ConfigError, UnknownNameError
from nprobot.options import Count, Options, Positive, Share


@dataclass(frozen=True)
class Inner(Options):
    rate: Positive | None = None


@dataclass(frozen=True)
class Outer(Options):
    renamed: ClassVar = {"runs": "trials"}

    trials: Count = 3
    share: Share = 0.5
    sizes: tuple[Count, ...] = (1,)
    how: Literal["fast", "slow"] = "fast"
    note: str | None = None
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trials": 0}, "trials must be 1 or more, got 0"),
        ({"trials": 1.5}, "trials must be a whole number, got 1.5"),
        ({"trials": True}, "trials must be a whole number, got True"),
        ({"share": 2}, "share must be 1 or less, got 2"),
        ({"share": float("nan")}, "share must be finite, got nan"),
        ({"share": float("inf")}, "share must be finite, got inf"),
        ({"sizes": (4, 0)}, r"sizes must be 1 or more, got \(4, 0\)"),
        ({"note": 3}, "note must be text, got 3"),
    ],
)
def test_a_value_that_does_not_fit_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        Outer(**values)


def test_an_unknown_word_comes_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean slow") as caught:
        Outer(how="slwo")
    assert caught.value.near == ["slow"]


def test_numbers_become_those_of_the_field():
    made = Outer(trials=np.int64(4), share=1, sizes=[2, 3])
    assert (made.trials, made.share, made.sizes) == (4, 1.0, (2, 3))
    assert type(made.share) is float


def test_survives_a_dict_and_understands_old_names():
    made = Outer(trials=4, inner=Inner(rate=0.1))
    assert Outer.from_dict(made.to_dict()) == made
    assert Outer.from_dict({"runs": 7}).trials == 7
    assert made.replace(share=0.25).inner == made.inner


@pytest.mark.parametrize(
    ("values", "near"), [({"trails": 1}, "trials"), ({"inner": {"rat": 1}}, "inner.rate")]
)
def test_an_unknown_option_comes_with_the_nearest(values, near):
    with pytest.raises(UnknownNameError, match="unknown option") as caught:
        Outer.from_dict(values)
    assert caught.value.near[0] == near
