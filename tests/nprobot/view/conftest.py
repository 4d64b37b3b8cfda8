"""Stand-ins for a page and a clock, and a browser if this machine has one."""

import shutil
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # processes that are spawned get the same path
    sys.path.insert(0, HERE)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class StillPage:
    """A page without a browser: keeps the frames, and brings the wishes that it is given."""

    def __init__(self, visitors=1):
        self.visitors, self.frames, self.asked = visitors, [], []

    def ready(self):
        return True

    def publish(self, frame):
        self.frames.append(frame)

    def wishes(self):
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def still_page():
    return StillPage()


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window; WebGL by the processor."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here, so no page is opened: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()
