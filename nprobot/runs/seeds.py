"""One seed a run, spawned to everything that draws random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Seeds:
    """Seeds of the parts of a run, a fit or a benchmark; independent of each other.

    Attributes:
        environments: the seed of the first environment; the next ones count up from it.
        rule: the seed of the node noise.
        torch: of torch, numpy and Python: initial weights, exploration, minibatches.
        evaluation: of the evaluations during training (the one at the end has its own).
        actuators: the seed of the hidden noise of the actuators.
        order: of the rows of a fit.
        device: which chip the networks are on.
    """

    environments: int
    rule: int
    torch: int
    evaluation: int
    actuators: int
    order: int
    device: int

    @classmethod
    def spawn(cls, seed: int) -> Seeds:
        """All seeds of a run from its one seed."""
        # A new part goes to the end: the seeds of the others stay what they were.
        children = np.random.SeedSequence(seed).spawn(7)
        return cls(*(int(child.generate_state(1)[0]) for child in children))

    def episodes_after(self, steps: int, count: int) -> list[int]:
        """Seeds of the episodes that a checkpoint begins, one for each of `count` environments."""
        sequence = np.random.SeedSequence([self.environments, steps])
        return [int(word) for word in sequence.generate_state(count)]
