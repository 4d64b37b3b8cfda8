"""The folder of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from nprobot.options import Options
from nprobot.runs.folder import Folder

from .run_config import RunConfig

Ending = Literal["complete", "solved", "interrupted"]
"""Why a session of a run ended: it took its steps, its evaluation was good enough, or Ctrl-C."""


@dataclass(frozen=True)
class RunFolder(Folder):
    """The folder of a training run.

    Attributes:
        path: the folder.
        config: what the run does, every default filled in.
    """

    form: ClassVar[str] = "nprobot-run"
    what: ClassVar[str] = "run"
    resume_command: ClassVar[str] = "nprobot train --resume"
    unit: ClassVar[str] = "step"
    options: ClassVar[type[Options]] = RunConfig

    config: RunConfig
