"""An example of a program that lets `nprobot deploy --serve` control its robot.

It needs pyzmq and nothing of nprobot; the messages are JSON, so any language can take its place.
The robot here is a toy of a few lines: a pole on a cart.

    nprobot deploy zoo:InvertedPendulum --serve      # in one terminal
    python scripts/examples/deploy_client.py         # in another
"""

import argparse
import math

import zmq

STEP, SUBSTEPS = 0.04, 20  # s: the server's "rate" of 25 Hz, and physics steps in it
GRAVITY = 9.81  # m/s²
CART, POLE = 10.5, 5.0  # kg
HALF = 0.3  # m, half of the pole's length
FORCE = 100.0  # N for an action of 1


class CartAndPole:
    """A pole on a cart: position (m), angle (rad), and their velocities."""

    def __init__(self) -> None:
        self.state = [0.0, 0.01, 0.0, 0.0]

    def observe(self) -> list[float]:
        """What the policy wants to see."""
        return self.state

    def act(self, action: float) -> None:
        """Push the cart for one control period."""
        x, angle, speed, turning = self.state
        dt = STEP / SUBSTEPS
        for _ in range(SUBSTEPS):
            sine, cosine = math.sin(angle), math.cos(angle)
            push = (FORCE * action + POLE * HALF * turning**2 * sine) / (CART + POLE)
            share = POLE * cosine**2 / (CART + POLE)
            turn = (GRAVITY * sine - cosine * push) / (HALF * (4 / 3 - share))
            speed += (push - share * HALF * turn / cosine) * dt
            turning += turn * dt
            x, angle = x + speed * dt, angle + turning * dt
        self.state = [x, angle, speed, turning]


def main() -> None:
    """Ask for an action, act, and so on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("endpoint", nargs="?", default="tcp://127.0.0.1:5757")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--timeout", type=float, default=1.0, help="of an answer, s")
    options = parser.parse_args()

    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.setsockopt(zmq.RCVTIMEO, int(1000 * options.timeout))  # a robot must not wait for ever
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(options.endpoint)

    def ask(message: dict) -> dict:
        socket.send_json(message)
        try:
            reply = socket.recv_json()
        except zmq.Again:
            raise SystemExit(f"no answer from {options.endpoint}") from None
        if reply["type"] == "error":
            raise SystemExit(f"the server refuses {message}: {reply['message']}")
        return reply

    about = ask({"type": "describe"})
    print(f"controls {about['environment']} at {about['rate']} Hz")
    ask({"type": "reset"})
    robot, upright = CartAndPole(), 0
    for _ in range(options.steps):
        reply = ask({"type": "step", "observation": robot.observe()})
        if reply["fault"]:
            print(f"fault: {reply['fault']['message']}")
        robot.act(reply["action"][0])
        upright += abs(robot.state[1]) < 0.2
    latency = ask({"type": "status"})["latency"]
    print(f"{options.steps} steps, {upright} of them upright, p99 {1e6 * latency['p99']:.0f} µs")


if __name__ == "__main__":
    main()
