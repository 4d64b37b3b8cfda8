"""Regression data: recorded from a robot's model, read from files, or cloned from a policy."""

from __future__ import annotations

from .baselines import linear_regression, mean_predictor, moments, nmse
from .cache import cache_folder
from .cloning import from_minari, from_policy
from .data import Dataset, Split
from .files import load_npz, load_sarcos, load_table
from .generate import Recording, forward_kinematics, inverse_dynamics, inverse_kinematics
from .splitting import split_rows
from .tasks import TASKS, Task, make

__all__ = [
    "TASKS",
    "Dataset",
    "Recording",
    "Split",
    "Task",
    "cache_folder",
    "forward_kinematics",
    "from_minari",
    "from_policy",
    "inverse_dynamics",
    "inverse_kinematics",
    "linear_regression",
    "load_npz",
    "load_sarcos",
    "load_table",
    "make",
    "mean_predictor",
    "moments",
    "nmse",
    "split_rows",
]
