"""The server: every message gets an answer, and what it says is what the controller does."""

import contextlib
import json
import math
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nprobot.deploy import Controller, PolicyServer, Safety
from nprobot.deploy.server import MOST_CLIENTS, MessageHandler, is_loopback
from nprobot.errors import DeployError
from nprobot.policies import BoxAction, zoo

from .helpers import FEW_AND_MANY

zmq = pytest.importorskip("zmq")

POLICY = zoo.load_policy("InvertedPendulum")
OBSERVATION = [0.0, 0.02, 0.0, -0.1]
CLIENT = Path(__file__).parents[3] / "scripts" / "examples" / "deploy_client.py"


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
READY = b"\x04\x06\x05READY"
LARGEST = MessageHandler(Controller(POLICY, record=1)).largest


@pytest.fixture
def controller():
    return Controller(POLICY, record=100)


def endpoint_of(server):
    host, port = server.endpoint.removeprefix("tcp://").split(":")
    return host, int(port)


def ask(controller, message, client=""):
    """What a controller, or one's handler, answers to one of its clients."""
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    handler = MessageHandler(controller) if isinstance(controller, Controller) else controller
    return json.loads(handler.answer(data, client))


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
        reply = MessageHandler(controller).answer(b'{"type": "status"}')
        reply = json.loads(reply, parse_constant=pytest.fail)
        assert reply["steps"] == 1 and reply["fault"]["kind"]
        assert reply["latency"]["p50"] > 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", "not-json"),
        (b"\xff\xfe", "not-json"),
        (b"{", "not-json"),
        (b"[" * 60_000, "not-json"),
        (b'{"type": "step", "observation": [' + b"1" * 5000 + b"]}", "not-json"),
        (b" " * (LARGEST + 1), "too-large"),
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
        ({"type": "clear_fault", "key": 3}, "bad-key"),
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


class TestEmergencyStops:
    """A stop is cleared by the connection that tripped it, or with its key."""

    def test_nobody_clears_the_stop_of_another(self, controller):
        handler = MessageHandler(controller)
        ask(handler, {"type": "trip", "message": "the button"}, "pendant")
        refused = ask(handler, {"type": "clear_fault", "key": ""}, "policy")
        assert refused["code"] == "stopped"
        assert controller.fault.message == "the button"
        assert ask(handler, {"type": "clear_fault"}, "pendant")["type"] == "done"
        assert controller.fault is None

    def test_all_who_stopped_have_to_clear(self, controller):
        """The second latches nothing new, and counts all the same."""
        handler = MessageHandler(controller)
        for client in ("one", "other"):
            ask(handler, {"type": "trip"}, client)
        assert ask(handler, {"type": "clear_fault"}, "one")["code"] == "stopped"
        assert ask(handler, {"type": "clear_fault"}, "other")["type"] == "done"

    def test_a_key_clears_from_anywhere(self, controller):
        handler = MessageHandler(controller)
        ask(handler, {"type": "trip", "key": "blue"}, "pendant")
        assert ask(handler, {"type": "clear_fault", "key": "red"}, "another")["code"] == "stopped"
        assert ask(handler, {"type": "clear_fault", "key": "blue"}, "another")["type"] == "done"

    def test_a_stop_after_a_fault_holds_too(self, controller):
        handler = MessageHandler(controller)
        ask(handler, {"type": "step", "observation": [1]}, "policy")
        ask(handler, {"type": "trip"}, "pendant")
        assert ask(handler, {"type": "clear_fault"}, "policy")["code"] == "stopped"
        assert controller.fault.kind == "observation-unusable"

    def test_the_program_around_it_clears_everything(self, controller):
        handler = MessageHandler(controller)
        ask(handler, {"type": "trip"}, "pendant")
        controller.clear_fault()
        ask(handler, {"type": "step", "observation": [1]}, "policy")
        controller.clear_fault()
        assert ask(handler, {"type": "clear_fault"}, "policy")["type"] == "done"

    def test_what_a_terminal_would_obey_is_left_out(self, controller):
        ask(controller, {"type": "trip", "message": "\x1b]0;owned\x07 the button\n"})
        assert controller.fault.message == "]0;owned the button"


class Returning:
    """A policy that returns whatever it is told to, after it has been tried."""

    observation_shape, task, normaliser = (2,), None, None

    def __init__(self, action):
        self.action, self.given = action, np.zeros(1, np.float32)

    def predict(self, observation):
        return self.given() if callable(self.given) else self.given


def boom():
    raise MemoryError("no room")


@pytest.mark.parametrize(
    "given",
    [
        *(np.array([1 + 2j]), np.array(["a"]), np.array([None]), np.array([[1.0]], np.float32)),
        *(np.zeros(10**6, np.float32), np.array([1.0]), None, "torque", object(), boom),
        np.array([np.nan], np.float32),
    ],
    ids=lambda given: type(given).__name__,  # the same in every process
)
def test_nothing_that_a_policy_returns_ends_it(given):
    policy = Returning(BoxAction(np.float32([-1]), np.float32([1])))
    handler = MessageHandler(Controller(policy, record=5))
    policy.given = given
    reply = ask(handler, {"type": "step", "observation": [0, 0]})
    assert reply["action"] == [0.0]
    assert reply["fault"]["kind"] in ("policy-failed", "action-not-finite")


@pytest.mark.parametrize("given", [np.array([1j]), np.zeros(2, np.float32), np.zeros(1, np.int64)])
def test_a_policy_with_such_actions_is_refused_at_once(given):
    policy = Returning(BoxAction(np.float32([-1]), np.float32([1])))
    policy.given = given
    with pytest.raises(DeployError, match="as an action"):
        Controller(policy)


def test_what_nobody_foresaw_is_an_answer(controller, monkeypatch):
    monkeypatch.setattr(controller, "step", boom)
    handler = MessageHandler(controller)
    assert ask(handler, {"type": "step", "observation": [1]})["code"] == "internal"


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
            "key": JSON,
            "id": JSON,
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@pytest.mark.parametrize("examples", FEW_AND_MANY)
def test_any_message_gets_an_answer(examples):
    handler = MessageHandler(Controller(POLICY, record=20))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @example(b'{"type": "step", "observation": [1e999, 0, 0, 0]}')
    @example(b'{"type":' + b'{"a":' * 900 + b"1" + b"}" * 901)
    @given(MESSAGES)
    def check(data):
        reply = json.loads(
            handler.answer(data),
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
        own = context.socket(zmq.REQ)
        own.setsockopt(zmq.RCVTIMEO, 30_000)
        own.connect(server.endpoint)
        yield own
        own.close(linger=0)
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

    def test_a_stray_client_takes_no_answer(self, server, client):
        """A frame without the envelope of REQ, from one that leaves at once."""
        for round_ in range(20):
            client.send_json({"type": "status", "id": round_})
            with zmq.Context() as context, context.socket(zmq.DEALER) as stray:
                stray.setsockopt(zmq.LINGER, 100)
                stray.connect(server.endpoint)
                stray.send(b'{"type": "status"}')
            assert client.recv_json()["id"] == round_

    @pytest.mark.parametrize("frames", [[b"{}"], [b""], [b"", b"{}", b"{}"], [b"x"] * 3])
    def test_other_frames_get_an_error(self, server, frames):
        with zmq.Context() as context, context.socket(zmq.DEALER) as other:
            other.setsockopt(zmq.LINGER, 0)
            other.setsockopt(zmq.RCVTIMEO, 30_000)
            other.connect(server.endpoint)
            other.send_multipart(frames)
            assert json.loads(other.recv_multipart()[-1])["code"] == "bad-frames"

    def test_an_envelope_comes_back(self, server):
        """As through a proxy, or with zmq.REQ_CORRELATE."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as other:
            other.setsockopt(zmq.LINGER, 0)
            other.setsockopt(zmq.RCVTIMEO, 30_000)
            other.connect(server.endpoint)
            other.send_multipart([b"from", b"", b'{"type": "status"}'])
            assert other.recv_multipart()[:2] == [b"from", b""]

    def test_a_heartbeat_is_answered(self, server):
        with socket.create_connection(endpoint_of(server), timeout=30) as client:
            client.sendall(GREETING + READY + b"\x04\x09\x04PING\x00\x0aab")
            said = b""
            while not said.endswith(b"\x04\x07\x04PONGab"):
                received = client.recv(1000)
                assert received
                said += received

    @pytest.mark.parametrize("parts", [[b"x" * (LARGEST + 1)], [b"x" * 1000] * 1000])
    def test_what_is_far_too_large_costs_only_its_sender(self, server, client, parts):
        """One frame, or a thousand that would only together be too much."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as rude:
            rude.setsockopt(zmq.LINGER, 0)
            rude.connect(server.endpoint)
            watch = rude.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            rude.send(b"", zmq.SNDMORE)
            rude.send_multipart([*parts[1:], parts[0]])
            assert watch.poll(30_000)
            rude.disable_monitor()
        client.send_json({"type": "status"})
        assert client.recv_json()["type"] == "status"

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b" " * 64,
            b"\xff" + bytes(8) + b"\x7f\x01\x00" + bytes(52),  # ZMTP 2
            GREETING[:12] + b"CURVE".ljust(20, b"\x00") + bytes(32),
            GREETING + b"\x04\xff" + bytes(255),
            GREETING + b"\x06" + b"\xff" * 8,  # a READY of 2^64 bytes
            GREETING + READY + b"\x02" + b"\xff" * 8,  # a message of as many
            GREETING + READY + b"\xff\x00",
            GREETING + READY + b"\x01\x00" * 100,
        ],
    )
    def test_bytes_that_are_no_message_end_their_connection(self, server, client, data):
        with socket.create_connection(endpoint_of(server), timeout=30) as stranger:
            stranger.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                while stranger.recv(1000):
                    pass
        client.send_json({"type": "status"})
        assert client.recv_json()["type"] == "status"

    def test_strangers_who_hold_connections_keep_nobody_out(self, server, client):
        client.send_json({"type": "status"})
        client.recv_json()
        with contextlib.ExitStack() as stack:
            strangers = [
                stack.enter_context(socket.create_connection(endpoint_of(server), timeout=30))
                for _ in range(MOST_CLIENTS + 5)
            ]
            with contextlib.suppress(ConnectionResetError):
                while strangers[0].recv(1000):  # the first to come, and silent, has to go
                    pass
            client.send_json({"type": "status"})
            assert client.recv_json()["type"] == "status"

    def test_clients_are_answered_in_turn(self, server, client):
        """One that sends without end gets one answer for each of the others', not a thousand."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as flood:
            flood.setsockopt(zmq.LINGER, 0)
            flood.setsockopt(zmq.SNDHWM, 0)
            flood.connect(server.endpoint)
            for _ in range(5_000):
                flood.send_multipart([b"", b'{"type": "status"}'])
            flood.recv_multipart()
            before = server.answered
            for _ in range(200):
                client.send_json({"type": "status"})
                client.recv_json()
            assert 200 <= server.answered - before < 1_000

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
