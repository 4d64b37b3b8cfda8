"""The pages in a real browser: what a visitor sees and does, and what becomes of it."""

import io
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
from page_robots import DIAL, cart, cart_policy, dial_policy

from nprobot.adaptation import AdaptationConfig, adapt
from nprobot.deploy.conditions import Conditions
from nprobot.training import environments
from nprobot.view import LiveLoop, RemotePage
from nprobot.view.learning_page import LearningPage, LearningSetup
from nprobot.view.live_learners import AdaptationPage

PATIENCE = 180.0
"""Seconds that something may take on a busy machine; waited for only while it has not happened."""
WIDE = {"width": 1000, "height": 400}
PHONE = {"width": 360, "height": 640}


def eventually(happened, what):
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def shown(*robots, **options):
    """A loop at work with its page."""
    loop = LiveLoop(robots, frames=5, **options)  # drawn by the processor
    over = threading.Event()
    with RemotePage(loop.content(), port=0) as page:
        thread = threading.Thread(target=loop.run, args=(page, over.is_set))
        thread.start()
        try:
            yield loop, page
        finally:
            over.set()
            thread.join()


def visit(chromium, url, size=WIDE):
    visitor = chromium.new_page(viewport=size, device_scale_factor=1)
    visitor.set_default_timeout(PATIENCE * 1e3)
    visitor.goto(url)
    # Chromium's word that the processor draws would lie over the scene.
    visitor.add_style_tag(content=".mantine-Notifications-root { display: none }")
    return visitor


def status(visitor):
    return visitor.locator("#status").inner_text()


def row_of(visitor, label):
    """A control with its label."""
    return visitor.locator(
        f"xpath=//label[text()='{label}']/ancestor::div[contains(@class,'Flex')][1]"
    )


def write(visitor, label, value):
    """Write a number into the box beside a slider."""
    box = row_of(visitor, label).locator("input[inputmode]").first
    box.fill(str(value))
    box.press("Enter")


def press(visitor, name):
    visitor.get_by_role("button", name=name, exact=True).click()


def open_tab(visitor, name):
    visitor.get_by_role("tab", name=name, exact=True).click()


def check(visitor, label, on=True):
    """Tick a box, or take the tick away."""
    visitor.locator(f"xpath=//label[text()='{label}']/following::input[1]").set_checked(on)


def choose(visitor, label, word):
    """Choose one of several words."""
    row_of(visitor, label).locator("input").first.click()
    visitor.get_by_role("option", name=word, exact=True).click()


def green_place(visitor):
    """Where the target is in the window; None if it cannot be seen."""
    picture = iio.imread(io.BytesIO(visitor.screenshot()))[..., :3].astype(int)
    red, green, blue = np.moveaxis(picture, -1, 0)
    found = (green > red + 25) & (green > blue + 25)
    found[:, :310] = found[:, 680:] = False  # beside the scene are the panels
    rows, columns = np.nonzero(found)
    return None if len(rows) < 4 else (float(np.median(columns)), float(np.median(rows)))


def drag(visitor, start, by):
    x, y = start
    visitor.mouse.move(x, y)
    visitor.mouse.down()
    for part in (0.3, 0.6, 1.0):
        visitor.mouse.move(x + part * by[0], y + part * by[1])
        visitor.wait_for_timeout(60)


def test_a_visitor_commands_breaks_stops_and_pulls_a_robot(chromium):
    robot = cart()
    with shown(robot) as (loop, page):
        visitor = visit(chromium, page.url)
        visitor.get_by_role("button", name="Emergency stop").wait_for()

        first = status(visitor)
        eventually(lambda: status(visitor) != first, "the page shows no news")

        write(visitor, "Velocity", 0.8)
        eventually(lambda: robot.env.unwrapped.command[0] == pytest.approx(0.8), "no command")
        eventually(lambda: abs(robot.observation[0] - 0.8) < 0.1, "the cart does not follow")
        canvas = visitor.locator("canvas[data-engine]")
        seen = {canvas.screenshot() for _ in range(2)}
        eventually(lambda: len(seen | {canvas.screenshot()}) > 2, "the picture stands still")

        # A weakened motor costs return.
        def next_return():
            begun = len(robot.episodes) + 1  # the one that is running does not count
            eventually(lambda: len(robot.episodes) > begun, "no episode ends")
            return robot.episodes[begun].total

        healthy = next_return()
        open_tab(visitor, "Hardware")
        write(visitor, "Size", 0.1)
        press(visitor, "Break")
        eventually(lambda: robot.equipped.conditions.fault == ("gain:0=0.1",), "nothing broke")
        assert next_return() < healthy - 5.0
        eventually(lambda: "gain:0=0.1" in status(visitor), "the page does not say what broke")
        press(visitor, "Repair")
        eventually(lambda: robot.equipped.conditions.fault == (), "it stays broken")

        # Other controls of the hardware.
        write(visitor, "Latency", 0.1)
        write(visitor, "Load", 0.5)
        eventually(
            lambda: (
                (robot.equipped.conditions.latency, robot.equipped.conditions.load)
                == (pytest.approx(0.1), pytest.approx(0.5))
            ),
            "neither latency nor load",
        )
        assert robot.model.body("cart").mass[0] == pytest.approx(1.5)

        # The emergency stop holds, and is cleared.
        open_tab(visitor, "Robot")
        press(visitor, "Emergency stop")
        eventually(lambda: robot.controller.fault is not None, "it does not stop")
        eventually(lambda: robot.controller.previous_action == 0.0, "it still acts")
        visitor.locator("#alarm").wait_for()
        press(visitor, "Clear fault")
        eventually(lambda: robot.controller.fault is None, "the fault stays")

        # The mouse: the cart is in the middle of the picture, as the camera follows it.
        box = canvas.bounding_box()
        middle = box["x"] + box["width"] / 2 - 8, box["y"] + box["height"] / 2
        pulls = []

        def pulled():
            drag(visitor, middle, (-60, 0))
            pulls.append(robot.pull)
            visitor.mouse.up()
            return pulls[-1] is not None

        eventually(pulled, "the cart cannot be pulled at")
        assert robot.model.body(pulls[-1].body).name == "cart"
        assert pulls[-1].towards != pulls[-1].grip
        eventually(lambda: robot.pull is None, "it is pulled for ever")

        # Pause, and one step.
        check(visitor, "Pause")
        eventually(lambda: loop.paused, "it does not pause")
        steps = robot.controller.steps
        press(visitor, "Step")
        eventually(lambda: robot.controller.steps == steps + 1, "it takes no step")
        visitor.close()


def test_a_visitor_drags_the_target_and_sees_the_ghost(chromium):
    robot, ghost = cart(), cart()
    robot.env.unwrapped.target = np.array([0.0, 0.0, 0.45])
    nothing = {"weight": np.zeros((1, 2)), "bias": np.zeros(1)}
    standing = replace(cart_policy().operations[0], arrays=nothing)
    robot.change_policy(replace(cart_policy(), operations=(standing,)))
    with shown(robot, ghost=ghost) as (_, page):
        visitor = visit(chromium, page.url)
        visitor.get_by_role("button", name="Emergency stop").wait_for()
        eventually(lambda: green_place(visitor), "no target is drawn")
        start = robot.target

        def dragged():
            place = green_place(visitor)
            if place is not None:
                drag(visitor, place, (20, -20))
                visitor.mouse.up()
            return robot.target != start

        eventually(dragged, "the target cannot be dragged")
        eventually(lambda: ghost.target == robot.target, "the ghost has another target")

        # The robot of this policy stands still; what moves in the picture is the ghost.
        before = visitor.locator("canvas[data-engine]").screenshot()
        write(visitor, "Velocity", 0.8)
        eventually(lambda: abs(ghost.observation[0] - 0.8) < 0.1, "the ghost has no command")
        assert robot.observation[0] == pytest.approx(0.0)
        eventually(
            lambda: visitor.locator("canvas[data-engine]").screenshot() != before, "no ghost"
        )
        # Both work under the same conditions.
        open_tab(visitor, "Hardware")
        press(visitor, "Break")
        eventually(lambda: ghost.equipped.conditions.fault == ("gain:0=0.4",), "it is whole")
        visitor.close()


def test_a_visitor_puts_the_network_on_a_chip_and_sets_limits(chromium):
    robot = cart(episode=10**6)
    with shown(robot) as (_, page):
        visitor = visit(chromium, page.url)
        write(visitor, "Velocity", 0.5)

        def answers():
            found = [robot.controller.policy.predict([0.2, 0.5])[0] for _ in range(4)]
            return {round(float(answer), 4) for answer in found}

        assert answers() == {1.2}
        open_tab(visitor, "Hardware")
        choose(visitor, "Chip", "0.5")
        eventually(lambda: robot.equipped.conditions.chip == "0.5", "there is no chip")
        assert len(answers()) == 4
        choose(visitor, "Chip", "none")
        write(visitor, "Dead nodes", 1)
        eventually(lambda: robot.equipped.conditions.dead_nodes == 1, "all nodes live")
        eventually(lambda: answers() == {0.0}, "a dead network answers")
        write(visitor, "Dead nodes", 0)
        eventually(lambda: answers() == {1.2}, "the network stays dead")

        open_tab(visitor, "Safety")
        check(visitor, "Limit action high")
        write(visitor, "Action high", 0.25)
        eventually(lambda: robot.controller.safety.action_high == 0.25, "there is no limit")
        # A limit that leaves no action is refused with a word, and the page shows what holds.
        check(visitor, "Limit action low")
        write(visitor, "Action low", 3)
        visitor.locator("#notice").get_by_text("no action is inside").wait_for()
        safety = robot.controller.safety  # the limit that a box begins with is the robot's own
        assert (safety.action_low, safety.action_high) == (-5.0, 0.25)
        robot.hold_command("velocity", 1.0)

        def limited():
            robot.controller.clear_fault()  # the watchdog's, where the machine has no time for us
            return robot.controller.previous_action == 0.25

        eventually(limited, "the limit is not felt")
        visitor.close()


def test_two_visitors_see_the_same_and_one_leaves(chromium):
    robot = cart()
    with shown(robot) as (loop, page):
        wide, phone = visit(chromium, page.url), visit(chromium, page.url, PHONE)
        eventually(lambda: page.visitors == 2, "they are not both there")
        write(wide, "Velocity", -0.5)
        eventually(lambda: robot.env.unwrapped.command[0] == pytest.approx(-0.5), "no command")
        # Phone width: a sheet over the scene, nothing beside the screen.
        phone.get_by_role("button", name="Emergency stop").wait_for()
        assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        box = row_of(phone, "Velocity").locator("input[inputmode]")
        eventually(lambda: float(box.first.input_value()) == -0.5, "the other sees another value")
        wide.close()
        eventually(lambda: page.visitors == 1, "the visitor who left is still counted")
        steps = robot.controller.steps
        eventually(lambda: robot.controller.steps > steps + 20, "the loop has stopped")
        assert not loop.paused
        phone.close()


def test_a_visitor_breaks_motors_and_the_return_comes_back(chromium):
    policy = dial_policy()
    config = AdaptationConfig(
        steps=10**9, calibration=1_000, robots=10, batch=100, node_noise=0.1, learning_rate=1e-2
    )
    story, done = [], threading.Event()
    setup = LearningSetup("dials", policy, adapts=True)
    with LearningPage(setup, port=0, found=lambda url, error: story.append((url, error))) as page:
        attendant = AdaptationPage(policy, page, Conditions())

        class Watched:
            """The page's attendant, and what it saw."""

            learner, episodes = None, ()
            models = property(lambda self: attendant.models)

            def attend(self, learner, episodes):
                self.learner, self.episodes = learner, episodes
                attendant.attend(learner, episodes)
                if done.is_set():
                    raise StopIteration

        watched = Watched()

        def learn():
            with suppress(StopIteration):
                adapt(
                    policy,
                    lambda: environments.make(DIAL),
                    (),
                    config,
                    evaluation_episodes=2,
                    attendant=watched,
                )

        thread = threading.Thread(target=learn)
        thread.start()
        try:
            eventually(lambda: story, "there is no page")
            (url, error) = story[0]
            assert not error
            visitor = visit(chromium, url)
            open_tab(visitor, "Hardware")
            eventually(lambda: watched.learner.num_timesteps > 2_000, "it does not learn")

            def now():
                return np.mean([episode.total for episode in watched.episodes[-20:]])

            healthy = now()
            choose(visitor, "Kind", "offset")
            press(visitor, "Break")  # offset:0=0.4
            eventually(lambda: attendant.models, "nothing broke")
            eventually(lambda: now() < healthy - 1.0, "it costs nothing")
            worst = now()
            eventually(lambda: now() > (healthy + worst) / 2, "it does not come back")
            first = next(m for m in watched.learner.policy.actor if hasattr(m, "weight"))
            learned = first.weight.detach().clone()
            open_tab(visitor, "Robot")
            check(visitor, "Learn", on=False)
            eventually(lambda: watched.learner.hold, "it goes on learning")
            press(visitor, "Undo learning")
            eventually(lambda: np.allclose(first.weight.detach(), np.eye(2)), "it is not undone")
            assert not np.allclose(learned, np.eye(2))
            visitor.close()
        finally:
            done.set()
            thread.join()
