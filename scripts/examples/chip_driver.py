"""A driver that puts a device of yours where `nprobot train --chip` finds it: copy and change it.

    python scripts/examples/chip_driver.py --sizes 4,8,1 --port 5859
    nprobot train --env InvertedPendulum-v5 --hidden 8 --chip tcp://127.0.0.1:5859

It needs pyzmq and numpy, and nothing of nprobot. `Device` stands for the hardware: put in its place
what talks to yours. `Driver` speaks the protocol, version 1: a JSON object asks, a JSON object
answers, arrays are base64 of float32.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
from typing import Any

import numpy as np
import zmq

PROTOCOL = 1


class Device:
    """A stand-in for hardware: noisy nodes, and weights that move in steps, not quite as asked."""

    def __init__(self, sizes: list[int], noise: float = 0.05, step: float = 0.001) -> None:
        self.random = np.random.default_rng(1)
        self.noise, self.step = noise, step
        self.identity = "stand-in-0001"  # another one if the weights were lost
        self.weights = [
            self.random.uniform(-1, 1, (n, d + 1)) / d**0.5 for d, n in itertools.pairwise(sizes)
        ]
        self.pulses = 0.0

    def multiply(self, layer: int, x: np.ndarray) -> np.ndarray:
        """One layer's pre-activations of a batch, (rows, n); the biases are a last column."""
        ones = np.ones((len(x), 1))
        a = np.concatenate([x, ones], 1) @ self.weights[layer].T
        return a + self.noise * self.random.standard_normal(a.shape)

    def change(self, layer: int, wanted: np.ndarray) -> None:
        """Move weights towards where they should go: whole steps, 30 % of them lost or doubled."""
        steps = np.floor(np.abs(wanted) / self.step + self.random.random(wanted.shape))
        self.pulses += float(steps.sum())
        steps *= 1 + 0.3 * self.random.standard_normal(wanted.shape)
        moved = self.weights[layer] + np.sign(wanted) * steps * self.step
        self.weights[layer] = np.clip(moved, -2.0, 2.0)


class Driver:
    """Answers messages on behalf of a device."""

    can = ("write", "ledger")
    """What it understands beside describe, forward, update and read."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to one message."""
        device, kind = self.device, message["type"]
        if kind == "describe":
            last = len(device.weights) - 1
            layers = [
                {
                    "inputs": w.shape[1] - 1,
                    "outputs": w.shape[0],
                    "activation": "identity" if i == last else "tanh",
                    "readable": True,
                }
                for i, w in enumerate(device.weights)
            ]
            own = {"identity": device.identity, "layers": layers, "can": self.can}
            return {"type": "description", "protocol": PROTOCOL, **own}
        if kind == "forward":  # what it says under changes is done before the batch runs
            self.change(message.get("changes") or [])
            x, shown = unpack(message["inputs"]), []
            first, last = message.get("first") or 0, message.get("last")
            for layer in range(first, len(device.weights) if last is None else last + 1):
                a = device.multiply(layer, x)
                shown.append(pack(a))
                x = np.tanh(a)
            return {"type": "activities", "activities": shown}
        if kind == "update":
            self.change(message["changes"])
            return {"type": "done"}
        if kind == "read":
            found = [{"weights": pack(w[:, :-1]), "bias": pack(w[:, -1])} for w in device.weights]
            return {"type": "weights", "weights": found}
        if kind == "write":
            for layer, given in enumerate(message["weights"]):
                whole = np.column_stack([unpack(given["weights"]), unpack(given["bias"])])
                for _ in range(6):  # try, look, try again
                    device.change(layer, whole - device.weights[layer])
            return {"type": "done"}
        if kind == "ledger":
            return {"type": "ledger", "ledger": {"pulses": device.pulses}}
        raise ValueError(f"unknown message {kind!r}")

    def change(self, changes: list[dict[str, Any]]) -> None:
        """Do what changes ask for: add numbers, or take an outer product of errors and inputs."""
        for change in changes:
            if "errors" in change:
                errors, inputs = unpack(change["errors"]), unpack(change["inputs"])
                rows = np.column_stack([inputs, np.ones(len(inputs))])
                wanted = -change["rate"] * errors.T @ rows
            else:
                wanted = np.column_stack([unpack(change["weights"]), unpack(change["bias"])])
            self.device.change(change["layer"], wanted)


def pack(values: np.ndarray) -> dict[str, Any]:
    """An array as JSON."""
    array = np.ascontiguousarray(values, "<f4")
    return {"shape": array.shape, "float32": base64.b64encode(array.tobytes()).decode()}


def unpack(value: dict[str, Any]) -> np.ndarray:
    """The array in a JSON object."""
    flat = np.frombuffer(base64.b64decode(value["float32"]), "<f4")
    return flat.reshape(value["shape"]).astype(float)


def main() -> None:
    """Serve the device until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="4,8,1", help="units of every layer, inputs first")
    parser.add_argument("--port", type=int, default=5859)
    options = parser.parse_args()
    driver = Driver(Device([int(size) for size in options.sizes.split(",")]))
    socket = zmq.Context().socket(zmq.REP)
    socket.bind(f"tcp://127.0.0.1:{options.port}")
    print(f"Serving a device at tcp://127.0.0.1:{options.port}", flush=True)
    while True:
        message = json.loads(socket.recv())
        try:
            reply = driver.answer(message)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reply = {"type": "error", "message": f"{type(error).__name__}: {error}"}
        socket.send(json.dumps({**reply, "id": message.get("id")}).encode())


if __name__ == "__main__":
    main()
