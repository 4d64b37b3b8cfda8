"""Attempts to get at a chip's noise, seed or true weights; all of them must fail."""

from __future__ import annotations

import copy
import gc
import pickle
import types
import weakref

import numpy as np
import pytest
import torch

from nprobot.errors import NoiseInaccessibleError
from nprobot.policies import mlp
from nprobot.policies.chip import WeightMismatch, put_on_chip, resolve
from nprobot.policies.chip.crossbar import Crossbar
from nprobot.policies.chip.nonidealities import Site

from .conftest import SECRET, layer_with


def children(thing):
    """What attributes, items, closures, defaults and module globals of nprobot lead to."""
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    if isinstance(thing, types.ModuleType):
        return list(vars(thing).values()) if thing.__name__.startswith("nprobot") else []
    if isinstance(thing, types.FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        ours = (thing.__module__ or "").startswith("nprobot")
        return [*cells, thing.__defaults__, thing.__kwdefaults__, *([thing.__globals__] * ours)]
    if isinstance(thing, torch.Tensor | np.ndarray | str | bytes | int | float | type(None)):
        return []
    found = []
    home = thing if isinstance(thing, type) else type(thing)
    ours = str(home.__module__).startswith(("nprobot", "functools", "weakref"))
    if isinstance(thing, type) and not ours:
        return []
    names = dir(thing) if ours else getattr(thing, "__dict__", {})
    for name in [*names, "__self__", "__func__", "__wrapped__", "__class__"]:
        try:
            found.append(getattr(thing, name))
        except Exception:
            continue
    return found


def reachable(*roots):
    seen, todo = {}, list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) not in seen:
            seen[id(thing)] = thing
            todo += children(thing)
    return list(seen.values())


def is_secret(thing, gain):
    if isinstance(thing, Crossbar | Site | torch.Generator | np.random.SeedSequence):
        return True
    if isinstance(thing, int):
        return thing == SECRET
    return (
        isinstance(thing, torch.Tensor) and thing.shape == gain.shape and torch.equal(thing, gain)
    )


def test_no_chain_of_attributes_leads_to_noise_seed_or_true_weights():
    layer = layer_with([WeightMismatch(0.3), *resolve("spintronic")], SECRET)
    layer(torch.ones(2, 3))
    sites = [thing for thing in gc.get_objects() if type(thing) is Site]
    gain = next(site._constant for site in sites if site._constant is not None)
    found = reachable(layer, list(vars(weakref.finalize)["_registry"].values()))
    assert any(thing is layer.weight for thing in found)
    assert any(type(thing).__name__ == "Vault" for thing in found)  # the door, shut
    assert not [thing for thing in found if is_secret(thing, gain)]
    # The search does find what is not hidden.
    layer.careless = Site(SECRET, 0)
    assert [thing for thing in reachable(layer) if is_secret(thing, gain)]


def test_neither_text_nor_saved_parameters_tell():
    net = mlp([3, 4, 2])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    put_on_chip(net, "analog", seed=SECRET)
    net(torch.zeros(1, 3))
    assert str(SECRET) not in repr(net)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy, copy.deepcopy])
def test_no_copy_can_be_made(copier):
    net = mlp([3, 4, 2])
    put_on_chip(net, 0.1)
    with pytest.raises(NoiseInaccessibleError, match="cannot be copied or pickled"):
        copier(net[0])
    if copier is not copy.copy:
        with pytest.raises(NoiseInaccessibleError, match="off_chip_copy"):
            copier(net)


def test_the_noise_dies_with_the_network():
    def crossbars():
        gc.collect()
        return sum(type(thing) is Crossbar for thing in gc.get_objects())

    before = crossbars()
    layer = layer_with(0.1)
    assert crossbars() == before + 1
    del layer
    assert crossbars() == before
