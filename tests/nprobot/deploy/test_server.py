"""The server: every message gets an answer, and what it says is what the controller does."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nprobot.deploy import Controller, PolicyServer, Safety
from nprobot.deploy.server import LARGEST_MESSAGE, answer, is_loopback
from nprobot.errors import DeployError
from nprobot.policies import zoo

from .helpers import FEW_AND_MANY

zmq = pytest.importorskip("zmq")

POLICY = zoo.load_policy("InvertedPendulum")
OBSERVATION = [0.0, 0.02, 0.0, -0.1]
CLIENT = Path(__file__).parents[3] / "scripts" / "examples" / "deploy_client.py"


@pytest.fixture
def controller():
    return Controller(POLICY, record=100)


def ask(controller, message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return json.loads(answer(controller, data))


class TestAnswers:
    def test_step(self, controller):
        reply = ask(controller, {"type": "step", "observation": OBSERVATION, "id": 7})
        expected = POLICY.predict(OBSERVATION).tolist()
        assert reply == {"type": "action", "action": expected, "fault": None, "id": 7}

    def test_describe(self, controller):
        reply = ask(controller, {"type": "describe"})
        assert reply["observation"] == {"shape": [4]}
        assert reply["action"] == {"shape": [1], "kind": "box", "low": [-3.0], "high": [3.0]}
        assert reply["rate"] == 25
        assert reply["environment"] == "InvertedPendulum-v5"

    def test_bad_observation_is_a_fault_and_not_an_error(self, controller):
        reply = ask(controller, b'{"type": "step", "observation": [NaN, 0, 0, 0]}')
        assert reply["type"] == "action"
        assert reply["action"] == [0.0]
        assert reply["fault"]["kind"] == "observation-not-finite"
        assert ask(controller, {"type": "step", "observation": OBSERVATION})["action"] == [0.0]
        assert ask(controller, {"type": "clear_fault"})["fault"]["step"] == 0
        assert ask(controller, {"type": "step", "observation": OBSERVATION})["fault"] is None

    def test_wrong_shape_is_a_fault(self, controller):
        reply = ask(controller, {"type": "step", "observation": [1, 2]})
        assert reply["fault"]["kind"] == "observation-unusable"

    def test_age(self):
        own = Controller(POLICY, safety=Safety(max_age=0.05))
        reply = ask(own, {"type": "step", "observation": OBSERVATION, "age": 0.2})
        assert reply["fault"]["kind"] == "observation-stale"

    def test_reset_trip_and_status(self, controller):
        ask(controller, {"type": "step", "observation": OBSERVATION})
        assert ask(controller, {"type": "reset", "action": [0.5]}) == {
            "type": "done",
            "fault": None,
        }
        assert controller.previous_action == 0.5
        reply = ask(controller, {"type": "trip", "message": "somebody pushed the button"})
        assert reply["fault"]["kind"] == "external"
        status = ask(controller, {"type": "status"})
        assert status["steps"] == 1
        assert status["fault"]["message"] == "somebody pushed the button"
        assert status["latency"]["max"] > 0

    def test_nan_is_never_in_an_answer(self, controller):
        """JSON has none: a latency that no step has had yet is null."""
        latency = ask(controller, {"type": "status"})["latency"]
        assert latency["p50"] is None and latency["p99"] is None
        controller.step([math.nan] * 4)
        reply = json.loads(answer(controller, b'{"type": "status"}'), parse_constant=pytest.fail)
        assert reply["steps"] == 1 and reply["fault"]["kind"]
        assert reply["latency"]["p50"] > 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", "not-json"),
        (b"\xff\xfe", "not-json"),
        (b"{", "not-json"),
        (b"[" * 100_000, "not-json"),
        (b'{"type": "step", "observation": [' + b"1" * 5000 + b"]}", "not-json"),
        (b" " * (LARGEST_MESSAGE + 1), "too-large"),
        ([], "not-an-object"),
        ({}, "unknown-type"),
        ({"type": "explode"}, "unknown-type"),
        ({"type": ["step"]}, "unknown-type"),
        ({"type": "step"}, "no-observation"),
        ({"type": "step", "observation": "1,2,3,4"}, "no-observation"),
        ({"type": "step", "observation": [1, 2, "3", 4]}, "not-numbers"),
        ({"type": "step", "observation": [1, 2, None, 4]}, "not-numbers"),
        ({"type": "step", "observation": [1, 2, True, 4]}, "not-numbers"),
        ({"type": "step", "observation": OBSERVATION, "age": "0"}, "bad-age"),
        ({"type": "step", "observation": OBSERVATION, "obs": 1}, "unknown-key"),
        ({"type": "reset", "action": {"a": 1}}, "not-numbers"),
        ({"type": "reset", "action": [1, 2]}, "bad-action"),
        ({"type": "reset", "action": [10**400]}, "bad-action"),
        ({"type": "trip", "message": 3}, "bad-message"),
        ({"type": "status", "id": [1]}, "bad-id"),
        ({"type": "status", "id": "x" * 1000}, "bad-id"),
    ],
)
def test_malformed_messages_get_an_error(controller, message, code):
    reply = ask(controller, message)
    assert reply["type"] == "error"
    assert reply["code"] == code
    assert len(reply["message"]) < 400
    assert controller.steps == 0
    assert controller.fault is None


def test_an_error_repeats_the_id(controller):
    assert ask(controller, {"type": "explode", "id": "a1"})["id"] == "a1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
MESSAGES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["step", "reset", "trip", "status", "describe", "clear_fault"])},
        optional={
            "observation": JSON | st.lists(st.floats(), min_size=4, max_size=4),
            "age": JSON,
            "action": JSON | st.lists(st.floats(), min_size=1, max_size=1),
            "message": JSON,
            "id": JSON,
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@pytest.mark.parametrize("examples", FEW_AND_MANY)
def test_any_message_gets_an_answer(examples):
    controller = Controller(POLICY, record=20)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @example(b'{"type": "step", "observation": [1e999, 0, 0, 0]}')
    @example(b'{"type":' + b'{"a":' * 900 + b"1" + b"}" * 901)
    @given(MESSAGES)
    def check(data):
        reply = json.loads(
            answer(controller, data),
            parse_constant=lambda name: pytest.fail(f"{name} in an answer"),
        )
        assert reply["type"] in {"action", "done", "status", "description", "error"}
        if reply["type"] == "action":
            assert abs(reply["action"][0]) <= 3

    check()


class TestSocket:
    @pytest.fixture
    def server(self, controller):
        with PolicyServer(controller, port=0) as server:
            thread = threading.Thread(target=server.serve)
            thread.start()
            yield server
            server.stop()
            thread.join()

    @pytest.fixture
    def client(self, server):
        context = zmq.Context()
        socket = context.socket(zmq.REQ)
        socket.setsockopt(zmq.RCVTIMEO, 30_000)
        socket.connect(server.endpoint)
        yield socket
        socket.close(linger=0)
        context.term()

    def test_listens_on_this_machine_only(self, server):
        assert server.endpoint.startswith("tcp://127.0.0.1:")

    def test_answers_over_a_socket(self, server, client):
        for x in np.random.default_rng(0).normal(0, 0.1, (50, 4)):
            client.send_json({"type": "step", "observation": x.tolist()})
            assert client.recv_json()["action"] == POLICY.predict(x).tolist()
        assert server.answered == 50

    def test_malformed_messages_do_not_end_it(self, server, client):
        for message in (b"", b"{", b"\x00" * 100):
            client.send(message)
            assert json.loads(client.recv())["type"] == "error"
        client.send_multipart([b"{}", b"{}"])
        assert json.loads(client.recv())["type"] == "error"
        client.send_json({"type": "status"})
        assert client.recv_json()["type"] == "status"

    def test_a_message_that_is_far_too_large_costs_only_its_sender(self, server, client):
        with zmq.Context() as context, context.socket(zmq.REQ) as rude:
            rude.setsockopt(zmq.LINGER, 0)
            rude.connect(server.endpoint)
            rude.send(b"x" * (LARGEST_MESSAGE + 1))
            client.send_json({"type": "status"})
            assert client.recv_json()["type"] == "status"

    def test_the_client_of_the_documentation(self, server):
        done = subprocess.run(
            [sys.executable, str(CLIENT), server.endpoint, "--steps", "200", "--timeout", "30"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "200 steps, 200 of them upright" in done.stdout

    def test_a_taken_port_is_a_plain_error(self, server, controller):
        port = int(server.endpoint.rsplit(":", 1)[1])
        with pytest.raises(DeployError, match="cannot listen"):
            PolicyServer(controller, port=port)

    @pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("not a host", 0)])
    def test_impossible_addresses(self, controller, host, port):
        with pytest.raises(DeployError):
            PolicyServer(controller, host, port)


def test_loopback_addresses():
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"))
