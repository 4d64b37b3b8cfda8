"""What the tests of `nprobot.fit` share: small data, small fits, a reporter."""

from __future__ import annotations

import signal

import numpy as np
from torch import nn

from nprobot.envs.datasets import Dataset, Split

SMALL = {"epochs": 3, "batch_size": 32, "samples": 2}


def dataset(seed=0, inputs=4, shift=5.0):
    """Two smooth functions of correlated inputs, in units far from 1."""
    rng = np.random.default_rng(seed)

    def split(rows):
        z = rng.normal(size=(rows, inputs))
        z[:, 1] += 2 * z[:, 0]
        y = np.stack([z[:, 0] - 0.5 * z[:, 2], np.sin(z[:, 1]) + z[:, 3]], axis=1)
        return Split(30 * z + shift, 200 * y - 7, np.zeros(rows))

    names = tuple(f"q{i}" for i in range(inputs))
    return Dataset(
        split(640), split(200), split(200), None,
        names, ("rad",) * inputs, ("t0", "t1"), ("N·m",) * 2, {"task": "toy"},
    )  # fmt: skip


class Watch:
    """A reporter that remembers what it was told, and presses Ctrl-C after some epochs."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.messages = []
        self.seen = []

    def progress(self, progress):
        self.seen.append(progress)
        if self.stop_after is not None and f"epoch {self.stop_after} of" in progress.figures:
            self.stop_after = None
            signal.raise_signal(signal.SIGINT)

    def message(self, text):
        self.messages.append(text)


def without_times(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def weights(result):
    return nn.utils.parameters_to_vector(result.model.parameters())
