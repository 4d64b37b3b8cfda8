"""Whether the state of an environment can be saved exactly: tried out, not assumed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from nprobot.errors import NprobotError
from nprobot.runs.state import from_bytes, to_bytes

from .env_state import Env, Template, restore_environment, save_environment

STEPS_BEFORE = 17
STEPS_AFTER = 40
"""Steps of the trial before the state is saved, and after it before and after a reset."""


def saves_exactly(make: Callable[[], Env]) -> bool:
    """Whether an environment goes on from its saved state as it would have anyway.

    One environment takes a few random steps; its state is put into another one, the way that it
    takes over the disk. From there both get the same actions, past a reset: every observation,
    reward and end of an episode has to be the same, bit for bit.

    A trial is no proof: what an environment hides, and uses only now and then, it can miss.

    Args:
        make: makes the environment.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself will show them
        first, second = make(), make()
        try:
            return _same(first, second, make)
        except (NprobotError, TypeError):  # TypeError: of `state_dict` of its own
            return False
        finally:
            first.close()
            second.close()


def _same(first: Env, second: Env, make: Callable[[], Env]) -> bool:
    actions = copy.deepcopy(first.action_space)
    actions.seed(0)
    new = make()
    try:
        template = Template(new)
    finally:
        new.close()
    first.reset(seed=1)
    for _ in range(STEPS_BEFORE):
        _step(first, actions.sample())
    restore_environment(second, from_bytes(*to_bytes(save_environment(first, template))))
    for _ in range(2):
        for _ in range(STEPS_AFTER):
            action = actions.sample()
            if _step(first, action) != _step(second, action):
                return False
        if _bits(first.reset()[0]) != _bits(second.reset()[0]):
            return False
    return True


def _step(env: Env, action: Any) -> tuple[object, ...]:  # noqa: ANN401
    """What a step gave, and the first observation of the next episode if one has ended."""
    observation, reward, terminated, truncated, _ = env.step(action)
    after = _bits(env.reset()[0]) if terminated or truncated else b""
    return _bits(observation), _bits(reward), bool(terminated), bool(truncated), after


def _bits(value: Any) -> bytes:  # noqa: ANN401
    return np.asarray(value).tobytes()
