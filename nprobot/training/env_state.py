"""The state of one environment, wrappers and all, so that an episode goes on bit for bit.

Nobody has to write anything for it: the attributes of the environment and its wrappers are walked
through, and numbers, arrays, containers, random generators, MuJoCo simulations and plain Python
objects are kept. They go back into an environment *made anew* in the same way, attribute by
attribute; no object is made from a file, so a file can make an environment wrong but cannot run
code. What cannot be kept so (objects of C extensions, functions, open files) stays as the new
environment has it. Whether that is good enough is tried out (`env_trial`).

An environment or wrapper that knows better offers `state_dict()`, with numbers, strings, arrays and
containers of these, and `load_state_dict(state)`; then nobody looks into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium

from nprobot.errors import NprobotError

from .env_recorder import Node, Recorder
from .env_restorer import Restorer

TEMPLATE_SEED = 0
"""An environment made anew is reset with this seed before a state is put into it."""

Env = gymnasium.Env[Any, Any]


class Template:
    """What an environment looks like when it is new: where a saved state has to fit.

    Args:
        env: made anew; it is reset.
    """

    def __init__(self, env: Env) -> None:
        env.reset(seed=TEMPLATE_SEED)
        recorder = Recorder()
        self._tree = recorder.record(env, "env")
        self.models = recorder.models

    def fits(self, state: Node) -> bool:
        """Whether a state can go back into an environment made anew."""
        return _fits(state, self._tree)


def save_environment(env: Env, template: Template) -> Node:
    """The state of an environment, as a tree that `save_state` takes.

    Raises:
        NprobotError: it is too large or too deep, or would not fit a new environment.
    """
    try:
        state = Recorder(template.models).record(env, "env")
    except RecursionError:
        raise NprobotError("the state of the environment is nested too deeply") from None
    if not template.fits(state):
        raise NprobotError("the environment has objects that a new one has not")
    return state


def restore_environment(env: Env, state: Node) -> None:
    """Put a state into an environment that was made anew; it is reset first.

    Raises:
        NprobotError: it does not fit the environment.
    """
    env.reset(seed=TEMPLATE_SEED)
    try:
        Restorer().restore(state, env, "env")
    except NprobotError:
        raise
    except Exception as error:
        # Whatever is wrong with the file: the reason is told, and nothing of it was run.
        raise NprobotError(
            f"the saved state of the environment makes no sense: {type(error).__name__}: {error}"
        ) from error


_FROM_A_NEW_ONE = (
    *("object", "own", "actuators", "simulation", "model", "left"),
    *("named tuple", "enum"),
)
"""Kinds that are changed in, or made by what is found in, a new environment."""


def _fits(state: Node, template: Node) -> bool:
    if not isinstance(state, dict):
        return True
    other = template if isinstance(template, dict) else {}
    kind = state["kind"]
    if kind in _FROM_A_NEW_ONE:
        if (kind, state.get("type")) != (other.get("kind"), other.get("type")):
            return False
    elif kind != other.get("kind"):
        other = {}
    return all(_fits(child, its_other) for child, its_other in _children(state, other))


def _children(state: Node, other: Node) -> Iterator[tuple[Node, Node]]:
    if "members" in state:
        members = other.get("members", {})
        yield from ((child, members.get(name)) for name, child in state["members"].items())
    elif "items" in state:
        items = [*other.get("items", []), *[None] * len(state["items"])]
        yield from zip(state["items"], items, strict=False)
    elif "entries" in state:
        entries = {key: child for key, child in other.get("entries", [])}
        yield from ((child, entries.get(key)) for key, child in state["entries"])
    elif "env" in state:
        yield state["env"], other.get("env")
