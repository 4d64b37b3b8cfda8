"""Does one run and describes it in one row: result, curve, ledger, versions, machine."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import mujoco
import torch

from .algorithms import runner
from .environments import Evaluator
from .ledger import peak_memory
from .recorder import Recorder, Tell
from .rows import DONE, blank, failure, now
from .spec import RunSpec


def execute(spec: RunSpec, tell: Tell = lambda steps: None) -> dict[str, Any]:
    """Do one run.

    Args:
        spec: the run.
        tell: hears how many steps it has taken.

    Returns:
        Its row, JSON values. Whatever goes wrong in the run is in the row, not raised.
    """
    torch.set_num_threads(1)  # networks this small are slower on two threads than on one
    # MuJoCo's own handler writes a log file into the working directory.
    mujoco.set_mju_user_warning(lambda text: None)
    row = blank(spec)
    try:
        row |= {"status": DONE, **_measured(spec, tell)}
    except Exception as error:  # whatever it is, the other runs go on
        row |= failure(error)
    return row | {"peak_memory_mib": round(peak_memory(), 1), "ended": now()}


def _measured(spec: RunSpec, tell: Tell) -> dict[str, Any]:
    evaluator = Evaluator(spec)
    recorder = Recorder(spec, evaluator, tell)
    try:
        spent = runner(spec.algo)(spec, recorder)
    finally:
        evaluator.close()
    returns = recorder.returns
    return {
        "return_mean": statistics.fmean(returns),
        "return_sd": statistics.stdev(returns) if len(returns) > 1 else None,
        "returns": [round(value, 6) for value in returns],
        **dataclasses.asdict(spent),
        "curve": {name: list(map(_short, values)) for name, values in recorder.curve.items()},
    }


def _short(value: float) -> float:
    return value if isinstance(value, int) else round(value, 4)
