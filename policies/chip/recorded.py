"""A chip's answers on file, and a chip that gives them again: to look at a session without it.

A file has one JSON object a line: the description first, then every call with its answer, in the
form of the messages of `nprobot.policies.chip.remote`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ChipError, DamagedFileError
from .contract import ArraySpec, Change, Chip, Numbers, Weights, optional
from .remote import PROTOCOL, pack, pack_change, unpack

CLOSE = 1e-4
"""How far what a replayed chip is fed may be from what was recorded."""


class RecordingChip:
    """A chip of which everything that it is asked, and says, is written down.

    Args:
        chip: the device.
        path: of the file; what is there is written over.
    """

    def __init__(self, chip: Chip, path: str | Path) -> None:
        self._chip = chip
        self._path = Path(path)
        self._path.write_text("", encoding="utf-8")
        self._note(
            protocol=PROTOCOL,
            identity=chip.identity,
            layers=[dataclasses.asdict(layer) for layer in chip.layers],
        )

    @property
    def identity(self) -> str:
        """Of the device."""
        return self._chip.identity

    @property
    def layers(self) -> Sequence[ArraySpec]:
        """Of the device."""
        return self._chip.layers

    def can(self, name: str) -> bool:
        """Whether the device can be programmed; nothing else that it need not do is recorded."""
        return name == "write" and hasattr(self._chip, name)

    def forward(
        self, inputs: Numbers, first: int = 0, last: int | None = None
    ) -> Sequence[Numbers | None]:
        """As of `Chip`."""
        shown = self._chip.forward(inputs, first, last)
        answer = [pack(a) for a in shown]
        self._note(call="forward", inputs=pack(inputs), first=first, last=last, answer=answer)
        return shown

    def update(self, changes: Sequence[Change]) -> None:
        """As of `Chip`."""
        self._chip.update(changes)
        self._note(call="update", changes=[pack_change(change) for change in changes])

    def read(self) -> Weights:
        """As of `Chip`."""
        weights = self._chip.read()
        self._note(call="read", answer=[[pack(w), pack(b)] for w, b in weights])
        return weights

    def write(self, weights: Weights) -> None:
        """Program all weights."""
        optional(self._chip, "write")(weights)
        self._note(call="write", weights=[[pack(w), pack(b)] for w, b in weights])

    def _note(self, **entry: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class ReplayedChip:
    """Gives the answers of a recorded session again, to whoever asks the same in the same order.

    Args:
        path: of the file.
        strict: whether inputs have to be the recorded ones.

    Raises:
        DamagedFileError: it is no such file.
    """

    def __init__(self, path: str | Path, *, strict: bool = True) -> None:
        self._strict = strict
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            head, *self._calls = [json.loads(line) for line in lines]
            self.layers = tuple(ArraySpec(**layer) for layer in head["layers"])
            self.identity = str(head["identity"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(f"{path} is no recorded session of a chip: {error}") from error
        self._next = 0

    def forward(
        self, inputs: Numbers, first: int = 0, last: int | None = None
    ) -> list[Numbers | None]:
        """As of `Chip`."""
        call = self._take("forward")
        recorded = unpack(call["inputs"])
        same = recorded.shape == inputs.shape and np.allclose(recorded, inputs, CLOSE, CLOSE)
        if (first, last) != (call["first"], call["last"]) or (self._strict and not same):
            raise ChipError(
                f"call {self._next} of the recorded session had other inputs; the same learner, "
                "with the same seeds and versions, asks the same"
            )
        return [None if a is None else unpack(a) for a in call["answer"]]

    def update(self, changes: Sequence[Change]) -> None:
        """As of `Chip`: done already, when it was recorded."""
        self._take("update")

    def read(self) -> list[tuple[Numbers, Numbers]]:
        """As of `Chip`."""
        return [(unpack(w), unpack(b)) for w, b in self._take("read")["answer"]]

    def write(self, weights: Weights) -> None:
        """Done already, when it was recorded."""
        self._take("write")

    def _take(self, name: str) -> dict[str, Any]:
        if self._next == len(self._calls):
            raise ChipError(f"the recorded session ends after {self._next} calls")
        call: dict[str, Any] = self._calls[self._next]
        self._next += 1
        if call["call"] != name:
            raise ChipError(
                f"call {self._next} of the recorded session is {call['call']}, not {name}"
            )
        return call
