"""The one hiding place: secrets out of reach, and states that only their owner opens."""

import gc

import numpy as np
import pytest

from nprobot.errors import DamagedFileError
from nprobot.hidden import Vault, seal, unseal

STATE = {"count": 3, "noise": np.arange(6.0).reshape(2, 3), "names": ["a", None]}


class Owner:
    pass


def test_a_secret_lives_as_long_as_its_owner():
    vault = Vault()
    owner, secret = Owner(), Owner()
    vault.hide(owner, secret)
    assert vault.of(owner) is secret
    assert not vars(owner)
    vault.hide(owner, "another")
    assert vault.of(owner) == "another"
    number = id(owner)
    del owner
    gc.collect()
    assert vault._cell(number) == []


def test_a_sealed_state_comes_back():
    capsule = seal(STATE, [1, 2**40], "chip")
    state = unseal(capsule, [1, 2**40], "chip")
    assert (state["noise"] == STATE["noise"]).all()
    assert state["names"] == ["a", None]
    assert capsule == seal(STATE, [1, 2**40], "chip")
    assert STATE["noise"].tobytes() not in capsule


@pytest.mark.parametrize(
    ("secret", "kind", "change"),
    [
        ([2], "chip", lambda c: c),
        ([1], "actuators", lambda c: c),
        ([1], "chip", lambda c: c[:-1]),
        ([1], "chip", lambda c: c[:40] + bytes([c[40] ^ 1]) + c[41:]),
        ([1], "chip", lambda c: b""),
    ],
)
def test_anything_else_is_refused(secret, kind, change):
    capsule = seal(STATE, [1], "chip")
    with pytest.raises(DamagedFileError):
        unseal(change(capsule), secret, kind)
