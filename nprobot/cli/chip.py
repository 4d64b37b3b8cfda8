"""`nprobot chip`: an emulated chip for learners in other processes; what a chip says of itself."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from nprobot.deploy.server import LOOPBACK, MessageServer, is_loopback
from nprobot.errors import ConfigError
from nprobot.options import Positive, Seed
from nprobot.runs.atomic_files import write_whole
from nprobot.runs.interruption import exit_code

from .arguments import parse
from .deploy import until_told_to_stop
from .terminal import DONE, facts, say

PORT = 5858

HELP = """\
Serve an emulated chip at an address, for learners in other processes, or ask
the chip at an address what it is and what was spent on it.

examples:
  nprobot chip serve reram-om
  nprobot chip serve reram-om:failed=0.135 --state chip.state
  nprobot chip serve pcm --layers 11,64,64,2 --port 5900
  nprobot chip show tcp://127.0.0.1:5858
  nprobot train --env Reacher-v5 --chip tcp://127.0.0.1:5858
"""


@dataclass(frozen=True)
class ChipOptions:
    """Options of the command."""

    action: Annotated[Literal["serve", "show"], tyro.conf.Positional]
    """serve: an emulated chip. show: what the chip at an address says of itself."""
    chip: Annotated[str, tyro.conf.Positional]
    """What is wrong with the chip, as for train: reram-om, reram-hfo2, reram, pcm, ecram, ecram-mo,
    capacitor, exact, analog, …; for show the address of one."""
    layers: str | None = None
    """Its shape, units with commas between, inputs first. Left out: that of the first learner."""
    activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh"
    """What the chip does between its layers, where --layers is given."""
    unreadable: tuple[int, ...] = ()
    """Layers whose pre-activations do not leave the chip, from 0, where --layers is given."""
    state: Path | None = None
    """File that the chip is kept in: read at the start if it is there, written every --save-every
    seconds in which weights changed, and at the end. Left out: a chip that is forgotten."""
    save_every: Positive = 10.0
    """Seconds."""
    host: str = LOOPBACK
    """Address to listen on. On another one than this, anybody who reaches it can write the chip."""
    port: Annotated[int, tyro.conf.arg(name="port")] = PORT
    """Port to listen on; 0 for any that is free."""
    seed: Seed = 0
    """Of the chip's noise."""
    device_seed: Seed = 0
    """Which device it is."""
    json: bool = False
    """Print one JSON object (show)."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(ChipOptions, arguments, "chip", HELP)
    return _serve(options) if options.action == "serve" else _show(options)


class StateFile:
    """Keeps a chip in a file, not more often than need be.

    Args:
        path: the path of the file; None to keep nothing.
        save: makes its contents.
        every: seconds between two writings.
    """

    def __init__(self, path: Path | None, save: Callable[[], bytes], every: float) -> None:
        self._path, self._save, self._every = path, save, every
        self._written = time.monotonic()
        self._stale = True

    def changed(self) -> None:
        """Note that the chip is another one now; write it if it is time."""
        self._stale = True
        if time.monotonic() - self._written >= self._every:
            self.write()

    def write(self) -> None:
        """Write the chip, if it has changed."""
        if self._path is not None and self._stale:
            write_whole(self._path, self._save())
        self._stale, self._written = False, time.monotonic()


def _serve(options: ChipOptions) -> int:
    import torch

    from nprobot.policies.chip.contract import ArraySpec
    from nprobot.policies.chip.emulated import EmulatedChip, load_state, parse_layers
    from nprobot.policies.chip.remote import ChipMessages

    torch.set_num_threads(1)
    layers: Sequence[ArraySpec] = ()
    if options.layers is not None:
        layers = parse_layers(options.layers, options.activation, options.unreadable)
    elif options.unreadable:
        raise ConfigError("unreadable names layers of a chip whose shape is given; give --layers")
    chip = EmulatedChip(options.chip, layers, seed=options.seed, device_seed=options.device_seed)
    console = Console()
    if options.state is not None and load_state(chip, options.state):
        say(console, f"The chip of {options.state} goes on.")
    kept = StateFile(options.state, chip.save, options.save_every)
    with MessageServer(ChipMessages(chip, kept.changed), options.host, options.port) as server:
        if not is_loopback(options.host):
            print(
                f"Warning: anybody who reaches {server.endpoint} can write the chip; there is no "
                "password and no encryption.",
                file=sys.stderr,
            )
        shape = ", ".join(map(str, chip.layers)) or "the shape of the first network"
        say(console, f"Serving a chip ({options.chip}; {shape}) at {server.endpoint}")
        say(console, f"Learn on it: nprobot train --chip {server.endpoint}; Ctrl-C ends it.")
        sys.stdout.flush()
        with until_told_to_stop(server) as ended:
            server.serve()
        kept.write()
        say(console, f"{server.answered:,} messages; {_spent(chip.ledger())}")
    return exit_code() if ended else DONE


def _show(options: ChipOptions) -> int:
    from nprobot.policies.chip.contract import can
    from nprobot.policies.chip.remote import RemoteChip

    chip = RemoteChip(options.chip)
    ledger = chip.ledger() if can(chip, "ledger") else {}
    if options.json:
        layers = [dataclasses.asdict(layer) for layer in chip.layers]
        print(json.dumps({"identity": chip.identity, "layers": layers, "ledger": ledger}, indent=1))
        return DONE
    shown = {f"layer {i}": str(layer) for i, layer in enumerate(chip.layers)}
    shown |= {name: f"{value:,.6g}" for name, value in ledger.items()}
    Console().print(facts(f"chip {chip.identity[:12]} at {chip.address}", shown), highlight=False)
    return DONE


def _spent(ledger: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.6g}" for name, value in ledger.items())
