"""The page's server: closed to what is not the page, and never in the way of the loop."""

import asyncio
import http.client
import os
import signal
import threading

import msgspec
import numpy as np
import pytest
import viser
from page_robots import cart
from viser._messages import GuiUpdateMessage, ViewerCameraMessage
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from nprobot.errors import DeployError
from nprobot.view import LiveLoop, RemotePage
from nprobot.view.browser_page import BrowserPage

CAMERA = ViewerCameraMessage(
    *((1.0, 0.0, 0.0, 0.0), (3.0, 0.0, 1.0), 1.0, 0.1, 100.0, 400, 600),
    *((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
)


@pytest.fixture(scope="module")
def page():
    loop = LiveLoop([cart()])
    made = BrowserPage(loop.content(), port=0)
    made.content = loop.content()
    yield made
    made.close()


def address(page):
    return page.url.replace("http", "ws").replace("localhost", "127.0.0.1")


def visit(page, *messages, **headers):
    """Connect as a browser does, and send messages; the status if it is refused."""

    async def run():
        try:
            async with connect(
                address(page),
                subprotocols=[f"viser-v{viser.__version__}"],
                max_size=None,
                compression=None,
                **headers,
            ) as socket:
                for message in (CAMERA, *messages):
                    await socket.send(msgspec.msgpack.encode(message.as_serializable_dict([])))
                await socket.recv()
                await asyncio.sleep(0)
                await socket.ping()
        except InvalidStatus as refused:
            return refused.response.status_code
        return None

    return asyncio.run(run())


def get(page, path, **headers):
    connection = http.client.HTTPConnection(page.url.removeprefix("http://"))
    connection.request("GET", path, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_page_itself_is_let_in_and_other_sites_are_not(page):
    port = page.url.rpartition(":")[2]
    assert visit(page) is None
    assert visit(page, origin=f"http://127.0.0.1:{port}") is None
    assert visit(page, origin="http://evil.example") == 403
    assert visit(page, origin="http://127.0.0.1:1") == 403
    # A foreign name that somebody makes point at this machine.
    assert get(page, "/", Host=f"evil.example:{port}") == 403
    assert get(page, "/", Host=f"localhost:{port}") == 200


@pytest.mark.parametrize("path", ["/../../pyproject.toml", "/%2e%2e/%2e%2e/__init__.py"])
def test_nobody_reaches_files(page, path):
    assert get(page, path) == 404


def test_nobody_opens_a_tunnel(page):
    assert page._server.request_share_url() is None


def test_values_beyond_a_slider_are_cut_off_whatever_a_browser_sends(page):
    slider = page._groups["command"]._handles["velocity"][0]
    visit(page, GuiUpdateMessage(slider._impl.uuid, {"value": 1e9}))
    deadline = threading.Event()
    for _ in range(500):
        if found := [w for w in page.wishes() if w.group == "command"]:
            break
        deadline.wait(0.01)
    assert [wish.value for wish in found] == [1.0]


def test_a_value_that_is_missing_leaves_the_lines_of_a_plot(page):
    """A browser draws no line at all if one of the numbers that it gets is NaN."""
    plot = page._plots["actions"]
    plot.extend(np.array([[0.1, np.nan, 1.0], [0.2, 2.0, np.nan], [0.3, np.nan, 3.0]]))
    sent = np.array(plot._columns())
    np.testing.assert_array_equal(sent[:, -3:], [[0.1, 0.2, 0.3], [2, 2, 2], [1, 1, 3]])
    assert np.isfinite(sent).all()


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(DeployError, match="cannot listen"):
        BrowserPage(LiveLoop([cart()]).content(), host="192.0.2.1")


def test_a_loop_waits_for_no_page(tmp_path):
    """The page's process is stopped, as by a machine that is out of memory, and then killed."""
    robot = cart()
    now = [0.0]
    loop = LiveLoop([robot], clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    with RemotePage(loop.content(), port=0) as page:
        os.kill(page.pid, signal.SIGSTOP)
        loop.run(page, lambda: robot.controller.steps >= 3_000)
        assert not page.ready()
        os.kill(page.pid, signal.SIGKILL)
        loop.run(page, lambda: robot.controller.steps >= 4_000)
        assert page.visitors == 0
    assert robot.controller.fault is None
