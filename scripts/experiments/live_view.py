"""What the live page costs, and pictures of it.

Visitors are programs that open the page's socket and read all that it sends, without drawing: what
they see of it is counted, and the measured machine does not also have to draw.

    python -m scripts.experiments.live_view cost --minutes 30  # results/live_view/cost.csv
    python -m scripts.experiments.live_view training          # results/live_view/training.csv
    python -m scripts.experiments.live_view pictures          # docs/figures/live_*.png
    python -m scripts.experiments.live_view report            # the section in docs/live-view.md
"""

from __future__ import annotations

import asyncio
import csv
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import psutil
import tyro

from .pages import FIGURES, markdown, put_section
from .rows import RESULTS, ROOT, Rows, column, command, read

FOLDER = RESULTS / "live_view"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def visit(url: str, count: int, counts: Any) -> None:  # noqa: ANN401 - a shared array
    """Be several visitors, who read all that a page sends; counts: messages and bytes, of all."""

    async def everybody() -> None:
        await asyncio.gather(*(_visit(url, counts) for _ in range(count)))

    asyncio.run(everybody())


async def _visit(url: str, counts: Any) -> None:  # noqa: ANN401
    import viser
    from viser._messages import ViewerCameraMessage
    from websockets.asyncio.client import connect

    camera = ViewerCameraMessage(
        wxyz=(1.0, 0.0, 0.0, 0.0), position=(3.0, 0.0, 1.0), fov=1.0, near=0.1, far=100.0,
        image_height=400, image_width=600, look_at=(0.0, 0.0, 0.0), up_direction=(0.0, 0.0, 1.0),
    )  # fmt: skip
    address = url.replace("http", "ws").replace("localhost", "127.0.0.1")
    names: Any = [f"viser-v{viser.__version__}"]
    async with connect(address, subprotocols=names, max_size=None, compression=None) as socket:
        await socket.send(_packed(camera))
        async for message in socket:
            counts[0] += 1
            counts[1] += len(message)


def _packed(message: Any) -> bytes:  # noqa: ANN401
    import msgspec

    return msgspec.msgpack.encode(message.as_serializable_dict([]))


@contextmanager
def visitors(url: str, count: int) -> Iterator[Any]:
    """Several visitors; what they have received together."""
    context = multiprocessing.get_context("spawn")
    counts = context.Array("d", 2, lock=False)
    process = context.Process(target=visit, args=(url, count, counts), daemon=True)
    process.start()
    yield counts
    process.terminate()


def cost(
    policy: str = "zoo:ArmReach",
    minutes: int = 30,
    seats: tuple[int, ...] = (0, 20, 1),
    nice: int = 0,
) -> None:
    """CPU time and memory of `nprobot deploy --web` with some visitors, minute by minute.

    Args:
        policy: that is shown.
        minutes: how long with one visitor; at most two minutes with each other number of visitors.
        seats: numbers of visitors.
        nice: niceness of the loop; below 0 it goes before the other work of the machine, and the
            page, which is nicer by 5, with it.
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    FOLDER.mkdir(parents=True, exist_ok=True)
    heading = ("visitors", "nice", "minute", "loop_cpu", "page_cpu", "loop_mb", "page_mb")
    heading = (*heading, "messages_per_s", "kb_per_s", "load_average", "cores")
    table = FOLDER / "cost.csv"
    with open(table, "a", encoding="utf-8") as file:
        writer = csv.writer(file)
        if table.stat().st_size == 0:
            writer.writerow(heading)
        for count in seats:
            arguments = ["deploy", policy, "--web", "--actuators", "torque-motor"]
            with started(arguments) as (process, url), visitors(url, count) as received:
                loop = psutil.Process(process.pid)
                (page,) = [p for p in loop.children() if "spawn_main" in " ".join(p.cmdline())]
                time.sleep(20.0)
                for minute in range(minutes if count == 1 else min(minutes, 2)):
                    before = _state(loop, page, received)
                    time.sleep(60.0)
                    after = _state(loop, page, received)
                    rates = [(b - a) / 60.0 for a, b in zip(before, after, strict=True)]
                    memory = [p.memory_info().rss / 1e6 for p in (loop, page)]
                    row = [count, nice, minute + 1, *rates[:2], *memory, rates[2], rates[3] / 1e3]
                    row += [os.getloadavg()[0], os.cpu_count() or 0]
                    writer.writerow([round(value, 4) for value in row])
                    file.flush()


def _state(loop: Any, page: Any, received: Any) -> list[float]:  # noqa: ANN401
    return [*(sum(p.cpu_times()[:2]) for p in (loop, page)), received[0], received[1]]


@contextmanager
def started(arguments: Sequence[str]) -> Iterator[tuple[Any, str]]:
    """A command of nprobot with a page, and its address; what it prints at the end is printed."""
    # In the background of a shell Ctrl-C is ignored, and so it would be by the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as place:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "nprobot", *arguments, "--port", "0"],
            cwd=place,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        url = ""
        while not url:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"`nprobot {' '.join(arguments)}` ended without a page")
            found = re.search(r"Page: (\S+)", line)
            url = found.group(1) if found else ""
        reader = threading.Thread(target=lambda: print(process.stdout.read()))  # type: ignore[union-attr]
        reader.start()
        try:
            yield process, url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
            reader.join()


def training(steps: int = 40_000, pairs: int = 4) -> None:
    """Train with a page and a visitor and without, in turn: wall-clock and CPU seconds of each.

    Args:
        steps: of each run.
        pairs: of runs.
    """
    import torch

    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    _trained(2_048, seed=0, shown=True)  # so that no run that counts loads a library
    with open(FOLDER / "training.csv", "w", encoding="utf-8") as file:
        writer = csv.writer(file)
        heading = ("pair", "page", "steps", "seconds", "cpu_seconds", "told", "return", "messages")
        writer.writerow(heading)
        for pair in range(pairs):
            for shown in (False, True) if pair % 2 else (True, False):
                row = [pair, int(shown), steps, *_trained(steps, seed=pair, shown=shown)]
                writer.writerow([round(value, 4) for value in row])
                file.flush()


def _trained(steps: int, *, seed: int, shown: bool) -> tuple[float, ...]:
    """Wall-clock and CPU seconds of a run, those for telling the page, return, and messages."""
    from nprobot.training import RunConfig, train
    from nprobot.view.live_learners import TrainingPage

    config = RunConfig(env="Reacher-v5", steps=steps, seed=seed)
    with ExitStack() as stack:
        counts: list[Any] = []

        def found(url: str, error: str) -> None:
            counts.append(stack.enter_context(visitors(url, 1)))

        told = [0.0]

        def timed(work: Any) -> Any:  # noqa: ANN401 - a method
            def run() -> Any:  # noqa: ANN401
                before = time.process_time()
                result = work()
                told[0] += time.process_time() - before
                return result

            return run

        callbacks = [TrainingPage(config, "127.0.0.1", 0, found)] if shown else []
        for page in callbacks:
            for name in ("_on_training_start", "_on_rollout_start", "_on_step"):
                setattr(page, name, timed(getattr(page, name)))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        start, spent = time.perf_counter(), time.process_time()
        result = train(config, Path(folder) / "run", callbacks=callbacks)
        spent = time.process_time() - spent
        seconds = time.perf_counter() - start
        received = counts[0][0] if counts else 0.0
    mean = result.evaluation.mean if result.evaluation else np.nan
    return seconds, spent, told[0], mean, received


PAGES = {
    "deploy": (["deploy", "zoo:ArmReach", "--web", "--actuators", "torque-motor"], "Hardware", 12),
    "adapt": (["adapt", "zoo:Reacher", "--web", "--calibration", "8000"], "Robot", 60),
    "train": (["train", "--env", "HalfCheetah-v5", "--web"], "Robot", 60),
    "view": (["view", "envs/assets/arm7.xml"], "Robot", 10),
}
"""Name of a picture: the command, the tab that is open, seconds until there is something to see."""


def pictures(names: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(PAGES)) -> None:
    """Photograph pages.

    Args:
        names: of the pictures.
    """
    if CHROMIUM is None:
        sys.exit("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        for name in names:
            photograph(browser, name)
        browser.close()


def row_of(page: Any, label: str) -> Any:  # noqa: ANN401 - of playwright
    """The box that belongs to a label."""
    row = page.locator(f"xpath=//label[text()='{label}']/ancestor::div[contains(@class,'Flex')][1]")
    return row.locator("input:not([type=hidden])").first


def photograph(browser: Any, name: str) -> None:  # noqa: ANN401 - of playwright
    """Start a command, open its page, wait until there is something to see, and photograph it."""
    arguments, tab, seconds = PAGES[name]
    arguments = [str(ROOT / part) if part.endswith(".xml") else part for part in arguments]
    with started(arguments) as (_, url):
        page = browser.new_page(viewport={"width": 1100, "height": 620})
        page.set_default_timeout(600_000)
        page.goto(url)
        page.get_by_role("tab", name="Robot", exact=True).wait_for()
        page.add_style_tag(content=".mantine-Notifications-root { display: none }")
        if name == "adapt":
            page.get_by_text(", learns").wait_for()
            page.get_by_role("tab", name="Hardware", exact=True).click()
            for kind, size in (("gain", 0.4), ("drift", 0.2)):
                controls = [row_of(page, label) for label in ("Kind", "Actuator", "Size")]
                for control, word in zip(
                    controls, (kind, "0" if kind == "gain" else "1"), strict=False
                ):
                    if control.input_value() != word:
                        control.click()
                        page.get_by_role("option", name=word, exact=True).click()
                controls[2].fill(str(size))
                controls[2].press("Enter")
                page.wait_for_timeout(2_000)
                page.get_by_role("button", name="Break", exact=True).click()
                page.wait_for_timeout(2_000)
        page.get_by_role("tab", name=tab, exact=True).click()
        time.sleep(seconds)
        page.screenshot(path=FIGURES / f"live_{name}.png")
        page.close()
    print(f"docs/figures/live_{name}.png")


def report() -> None:
    """Write the section of the page."""
    rows = read(FOLDER / "cost.csv")
    lines = []
    for nice in sorted({row["nice"] for row in rows}, key=int):
        for seat in ("0", "1", "20"):
            own = [row for row in rows if (row["visitors"], row["nice"]) == (seat, nice)]
            if own:
                mean = {key: fmean(column(own, key)) for key in own[0]}
                each = max(int(seat), 1)
                lines.append(
                    (
                        *("before other work" if int(nice) < 0 else "behind it", seat),
                        *(str(len(own)), f"{100 * mean['loop_cpu']:.1f} %"),
                        *(f"{100 * mean['page_cpu']:.1f} %", *(_range(own, key) for key in MEMORY)),
                        f"{mean['messages_per_s'] / each:.0f}",
                        *(f"{mean['kb_per_s'] / each:.0f}", f"{mean['load_average']:.0f}"),
                    )
                )
    heading = (
        *("priority", "visitors", "minutes", "CPU of the loop", "CPU of the page"),
        *("memory of the loop, MB", "memory of the page, MB", "pictures/s to each"),
        *("kB/s to each", "load average of the two cores"),
    )
    text = [
        *markdown(heading, lines),
        "",
        "`nprobot deploy zoo:ArmReach --web --actuators torque-motor`, shares of one core by the "
        "processes' own CPU time; memory: first and last minute. Visitors read without drawing. "
        "The machine had other work throughout. *Before other work* the loop has niceness −12, "
        "*behind* 5; the page is nicer by 5 than the loop, so it gives way first.",
    ]
    pairs = read(FOLDER / "training.csv")
    seconds = {
        page: np.array(column([row for row in pairs if row["page"] == page], "cpu_seconds"))
        for page in {row["page"] for row in pairs}
    }
    if len(seconds) == 2:
        count = min(map(len, seconds.values()))
        told = np.array(column([row for row in pairs if row["page"] == "1"], "told"))
        share = told.sum() / seconds["1"].sum()
        more = 100 * (seconds["1"][:count] / seconds["0"][:count] - 1)
        text += [
            "",
            f"Training (Reacher-v5, {pairs[0]['steps']} steps, {count} pairs of runs, seeds 0 to "
            f"{count - 1}, in turn with and without a page that somebody looks at): "
            f"{seconds['1'].mean():.2f} s of CPU time with, {seconds['0'].mean():.2f} s without, "
            f"{more.mean():+.1f} % ({', '.join(f'{one:+.1f}' for one in more)}). What the run "
            f"itself does for the page is {100 * share:.1f} % of its CPU time; the page's process "
            "comes on top, at a lower priority, on two cores that other programs used, too.",
        ]
    put_section("live view", text, ROOT / "docs" / "live-view.md")


MEMORY = ("loop_mb", "page_mb")


def _range(rows: Rows, key: str) -> str:
    return f"{float(rows[0][key]):.0f} … {float(rows[-1][key]):.0f}"


if __name__ == "__main__":
    command(__doc__, cost, training, pictures, report)
