"""Whatever a stranger sends, as a policy or as bytes to the server: a typed error, or it works."""

import asyncio
import contextlib
import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nprobot.deploy import Controller
from nprobot.deploy.server import MessageHandler
from nprobot.deploy.zmtp import MOST_FRAMES, ProtocolError, greet, read_message
from nprobot.errors import FileError, NprobotError
from nprobot.policies import load
from nprobot.policies.files.card import card
from nprobot.policies.files.policy import KINDS
from nprobot.training.evaluation import actuators_of, task_of

from .helpers import FEW_AND_MANY

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "Reacher-v5", "mod:Env-v0", "\x1b[2J", "[/red]", "a" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
SIZES = st.lists(st.integers(0, 4) | st.sampled_from([10**6, 10**12]), max_size=3)
TENSOR = st.tuples(
    st.sampled_from([np.float32] * 6 + [np.float64, np.float16, np.int32, np.bool_, np.complex64]),
    st.lists(st.integers(0, 4), max_size=3).map(tuple) | st.sampled_from([(2,), (2, 2)]),
    st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf]),
)
NAMES = [f"t{number}" for number in range(5)]
NAME = st.sampled_from([*NAMES, "missing"])
OPERATION = st.fixed_dictionaries(
    {"op": st.sampled_from([*KINDS, "exec"])},
    optional={"weight": NAME, "bias": NAME, "alpha": JUNK, "negative_slope": JUNK},
)
NETWORK = st.lists(
    st.just({"op": "flatten"})
    | st.just({"op": "linear", "weight": "t0", "bias": "t1"})
    | st.sampled_from(["tanh", "gelu", "silu"]).map(lambda name: {"op": name})
    | OPERATION,
    max_size=4,
)
DESCRIPTION = st.fixed_dictionaries(
    {
        "format": st.just("nprobot-policy"),
        "version": st.just(1) | JUNK,
        "observation": st.fixed_dictionaries(
            {
                "shape": st.just([2]) | SIZES | JUNK,
                "normaliser": st.none()
                | st.fixed_dictionaries(
                    {"mean": NAME, "var": NAME, "epsilon": st.just(1e-8) | JUNK, "clip": JUNK}
                ),
            }
        ),
        "network": NETWORK | JUNK,
        "action": st.fixed_dictionaries(
            {"kind": st.just("box"), "low": NAME, "high": NAME, "mapping": st.just("clip") | JUNK}
        )
        | st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["discrete", "multi_discrete"]),
                "choices": st.just([2]) | SIZES | JUNK,
            }
        )
        | JUNK,
        "environment": st.none()
        | st.fixed_dictionaries({"id": JUNK, "kwargs": JUNK, "control_rate": JUNK}),
        "provenance": st.just({})
        | st.dictionaries(
            st.sampled_from(["rule", "steps", "versions", "evaluation", "actuators", "licence"]),
            JUNK,
        ),
    }
)
USABLE = {
    "format": "nprobot-policy",
    "version": 1,
    "observation": {"shape": [2], "normaliser": None},
    "network": [{"op": "linear", "weight": "t0", "bias": "t1"}, {"op": "tanh"}],
    "action": {"kind": "discrete", "choices": [2]},
    "environment": {"id": "mod:Env-v0", "kwargs": {}, "control_rate": 50},
    "provenance": {},
}
LOOSE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("examples", FEW_AND_MANY)
def test_any_policy_file(tmp_path, examples):
    """From the file to an action, and all that is shown of it on the way."""
    used = 0

    @settings(max_examples=examples, deadline=None, suppress_health_check=LOOSE)
    @example(USABLE, {})
    @given(DESCRIPTION, st.dictionaries(st.sampled_from(NAMES), TENSOR, min_size=2))
    def check(description, tensors):
        nonlocal used
        arrays = {name: np.full(shape, fill, kind) for name, (kind, shape, fill) in tensors.items()}
        arrays = {"t0": np.ones((2, 2), np.float32), "t1": np.ones(2, np.float32)} | arrays
        data = safetensors.numpy.save(arrays)
        digest = hashlib.sha256(data).hexdigest()
        (tmp_path / "policy.safetensors").write_bytes(data)
        text = json.dumps({**description, "tensors": {"sha256": digest}})
        (tmp_path / "policy.json").write_text(text)
        try:
            policy = load(tmp_path)
        except FileError as error:
            assert len(str(error)) < 1000
            return
        used += 1
        assert card(policy)
        with contextlib.suppress(NprobotError):
            actuators_of(policy, None)
            task_of(policy, None, None)
        with contextlib.suppress(NprobotError):
            handler = MessageHandler(Controller(policy, record=2))
            zeros = np.zeros(policy.observation_shape).tolist()
            step = json.dumps({"type": "step", "observation": zeros}).encode()
            assert json.loads(handler.answer(step))["type"] == "action"
            assert json.loads(handler.answer(b'{"type": "describe"}'))["type"] == "description"

    check()
    assert used > 0


class Nowhere:
    """A writer whose bytes nobody reads."""

    def write(self, data):
        pass

    async def drain(self):
        pass


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
FRAME = st.tuples(st.integers(0, 255) | st.sampled_from([0, 1, 4]), st.binary(max_size=40)).map(
    lambda parts: (
        bytes([parts[0]]) + len(parts[1]).to_bytes(8 if parts[0] & 2 else 1, "big") + parts[1]
    )
)
WIRE = st.one_of(
    st.binary(max_size=100),
    st.lists(FRAME | st.binary(max_size=9), max_size=12).map(b"".join),
    st.just(b"\x01\x00\x00\x02{}"),
)


@pytest.mark.parametrize("examples", FEW_AND_MANY)
def test_any_bytes_on_the_wire(examples):
    """A message within the limits, or the end of the connection."""

    async def talk(data, greeted):
        reader = asyncio.StreamReader()
        reader.feed_data((GREETING + b"\x04\x06\x05READY" if greeted else b"") + data)
        reader.feed_eof()
        with contextlib.suppress(ProtocolError, asyncio.IncompleteReadError):
            await greet(reader, Nowhere())
            while True:
                message = await read_message(reader, Nowhere(), 100)
                assert len(message.envelope) < MOST_FRAMES
                assert sum(map(len, message.envelope)) + len(message.body or b"") <= 100

    @settings(max_examples=examples, deadline=None)
    @given(WIRE, st.booleans())
    def check(data, greeted):
        asyncio.run(talk(data, greeted))

    check()
