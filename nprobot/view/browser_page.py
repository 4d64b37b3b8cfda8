"""The page itself: a viser server with scene, controls and plots, closed to everything else."""

from __future__ import annotations

import contextlib
import html
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import viser
import viser.uplot
import websockets.asyncio.server
from typing_extensions import override

from nprobot.errors import ConfigError, DeployError

from .controls import Control, ControlGroup
from .page_content import LOOPBACK, PORT, SAMPLES, Array, Frame, PageContent, Plot, Wish
from .stage import Stage

COLOURS = ("#1f6feb", "#d94801", "#2ea043", "#8250df", "#bf8700", "#cf222e", "#0598bc", "#6e7781")
PLOTS = 0.25
"""Seconds between two drawings of the plots, which are most of what is sent."""
STEP = 0.001
"""Finest step of a number that is typed."""
LONGEST = 4_000
"""Points that a plot of everything keeps; beyond, every second goes."""
_LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")


class BrowserPage:
    """A page in the browser; a `Page`.

    Args:
        content: as it begins.
        host: address to listen on.
        port: port to listen on, the next free one if it is taken; 0 for any.

    Attributes:
        url: the address of the page.

    Raises:
        DeployError: the address cannot be listened on.
    """

    def __init__(self, content: PageContent, host: str = LOOPBACK, port: int = PORT) -> None:
        self._pending: dict[tuple[str, str], Wish] = {}
        self._lock = threading.Lock()
        self._next_plots = 0.0
        self._server = _listen(host, port, content.title)
        shown = "localhost" if host in (LOOPBACK, "0.0.0.0", "::") else host
        self.url = f"http://{shown}:{self._server.get_port()}"
        gui = self._server.gui
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        # Beside the scene, not over it, so that a robot is never behind the controls.
        gui.main_panel.dock_right()
        self._status = gui.add_html("")
        self._notice = gui.add_html("", visible=False)
        self._groups: dict[str, _ShownGroup] = {}
        self._tabs: dict[str, Any] = {}
        self._tab_group = gui.add_tab_group()
        for group in content.groups:
            self._show_group(group)
        self._stage = None
        if content.model is not None:
            self._stage = Stage(self._server, content, self._wish)
            with self._tab("View"):
                self._stage.scene.create_scene_gui(camera_distance=3.0 * self._stage.size)
                with gui.add_folder("Overlays", expand_by_default=False):
                    self._stage.scene.create_overlay_gui()
        if content.hint:
            gui.add_markdown(content.hint)
        self._plots: dict[str, _ShownPlot] = {}
        if content.plots:
            panel = gui.add_panel()
            with panel.add_tab("Plots", icon=viser.Icon.CHART_LINE):
                self._plots = {plot.key: _ShownPlot(gui, plot) for plot in content.plots}
            panel.dock_left()
            panel.set_width(300)

    @property
    def visitors(self) -> int:
        """How many look."""
        return len(self._server.get_clients())

    def ready(self) -> bool:
        """Always: it has done with a frame when `publish` returns."""
        return True

    def publish(self, frame: Frame) -> None:
        """Show a frame."""
        with self._server.atomic():
            for group in frame.groups:
                self._show_group(group)
            if self._stage is not None and frame.poses:
                self._stage.show(frame.poses, frame.target)
            for key, rows in frame.samples.items():
                self._plots[key].extend(rows)
            if self.visitors and time.monotonic() >= self._next_plots:
                self._next_plots = time.monotonic() + PLOTS
                for plot in self._plots.values():
                    plot.draw()
            if frame.status or frame.alarm:
                content = _table(frame.status, frame.alarm)
                if content != self._status.content:
                    self._status.content = content
            if frame.notice:
                self._notice.content = _note(frame.notice)
                self._notice.visible = True

    def wishes(self) -> list[Wish]:
        """What the visitors have asked for since the last call; of each control the newest."""
        with self._lock:
            wishes, self._pending = list(self._pending.values()), {}
        return wishes

    def close(self) -> None:
        """Send the visitors away."""
        with contextlib.redirect_stdout(None):
            self._server.stop()

    def _wish(self, wish: Wish) -> None:
        with self._lock:
            self._pending.pop((wish.group, wish.name), None)
            self._pending[wish.group, wish.name] = wish

    def _tab(self, name: str) -> Any:  # noqa: ANN401 - a handle of viser
        if name not in self._tabs:
            self._tabs[name] = self._tab_group.add_tab(name)
        return self._tabs[name]

    def _show_group(self, group: ControlGroup) -> None:
        shown = self._groups.get(group.key)
        if shown is not None and shown.takes(group):
            return
        if shown is not None:
            shown.folder.remove()
        order = None if shown is None else shown.order
        with self._tab(group.tab):
            self._groups[group.key] = _ShownGroup(self._server.gui, group, self._wish, order)


class _ShownGroup:
    """A folder with controls on the page."""

    def __init__(
        self,
        gui: viser.GuiApi,
        group: ControlGroup,
        wish: Callable[[Wish], None],
        order: float | None,
    ) -> None:
        self._group, self._wish = group, wish
        self.folder = gui.add_folder(
            group.title, order=order, expand_by_default=group.open, visible=bool(group.controls)
        )
        self.order = self.folder.order
        self._handles: dict[str, tuple[Any, ...]] = {}
        with self.folder:
            for control in group.controls:
                self._handles[control.name] = self._show(gui, control)

    def takes(self, group: ControlGroup) -> bool:
        """Whether the controls are these; then they get the new values."""
        mine, new = self._group.controls, group.controls
        if [_shape(c) for c in mine] != [
            _shape(c) for c in new
        ] or group.title != self._group.title:
            return False
        self._group = group
        for control in new:
            if control.kind != "button":
                _set(control, self._handles[control.name])
        return True

    def _show(self, gui: viser.GuiApi, control: Control) -> tuple[Any, ...]:
        label, hint = control.label, control.help or None
        value: Any = control.value
        if control.kind == "button":
            handle: Any = gui.add_button(label, hint=hint, color="red" if control.danger else None)
            handle.on_click(self._changed(control, (handle,)))
            return (handle,)
        if control.kind == "check":
            handles: tuple[Any, ...] = (gui.add_checkbox(label, bool(value), hint=hint),)
        elif control.kind == "choice":
            shown = control.words if control.value is None else value
            first = shown if isinstance(shown, str) else control.words[0]
            handles = (gui.add_dropdown(label, control.words, initial_value=first, hint=hint),)
        elif control.kind == "slider":
            kind: Any = int if control.whole else float
            low, high = kind(control.low), kind(control.high)
            step = 1 if control.whole else (high - low) / 200
            handles = (
                gui.add_slider(label, low, high, step, min(max(kind(value), low), high), hint=hint),
            )
        else:
            handles = self._show_number(gui, control)
        for one in handles:
            one.on_update(self._changed(control, handles))
        return handles

    def _show_number(self, gui: viser.GuiApi, control: Control) -> tuple[Any, ...]:
        kind: Any = int if control.whole else float
        bounds = [None if np.isinf(bound) else kind(bound) for bound in (control.low, control.high)]
        first = control.start if control.value is None else control.value
        # Without a step, viser would round what is typed to the digits of the first value.
        number: Any = gui.add_number(
            control.label,
            kind(first),
            min=bounds[0],
            max=bounds[1],
            step=1 if control.whole else STEP,
            hint=control.help or None,
        )
        if not control.optional:
            return (number,)
        number.visible = control.value is not None
        return gui.add_checkbox(
            f"Limit {control.label.lower()}", control.value is not None, hint=control.help or None
        ), number

    def _changed(self, control: Control, handles: tuple[Any, ...]) -> Callable[[Any], None]:
        def changed(event: Any) -> None:  # noqa: ANN401 - generic in viser
            if event.client_id is None:
                return  # the loop has set it, nobody asked
            value = handles[-1].value
            if len(handles) == 2:
                handles[1].visible = bool(handles[0].value)
                value = value if handles[0].value else None
            if control.kind == "button":
                value = True
            with contextlib.suppress(ConfigError):  # no browser of ours sends such a value
                self._wish(Wish(self._group.key, control.name, control.checked(value)))

        return changed


def _shape(control: Control) -> tuple[object, ...]:
    """All of a control but its value."""
    return control.name, control.kind, control.words, control.optional, control.low, control.high


def _set(control: Control, handles: tuple[Any, ...]) -> None:
    """Give a control on the page the value that holds."""
    value: Any = control.value
    if len(handles) == 2:
        handles[0].value = value is not None
        handles[1].visible = value is not None
    if value is not None:
        handles[-1].value = value


class _ShownPlot:
    """A plot on the page, and what it shows."""

    def __init__(self, gui: viser.GuiApi, plot: Plot) -> None:
        self._plot, self._news = plot, False
        self._rows = np.full((1, 1 + len(plot.lines)), np.nan)
        self._rows[0, 0] = 0.0
        series: list[viser.uplot.Series] = [{"label": plot.x}]
        series += [
            {"label": line, "stroke": COLOURS[i % len(COLOURS)], "width": 1.5}
            for i, line in enumerate(plot.lines)
        ]
        self._handle = gui.add_uplot(
            self._columns(),
            tuple(series),
            title=plot.title,
            scales={"x": {"time": False}},
            axes=({"size": 30}, {"size": 55}),
            legend={"show": len(plot.lines) > 1, "live": False},
            height=150,
        )

    def extend(self, rows: Any) -> None:  # noqa: ANN401 - an array
        """Add rows."""
        self._news = True
        self._rows = np.concatenate([self._rows, rows])
        if np.isnan(self._rows[0, 1:]).all():
            self._rows = self._rows[1:]
        if self._plot.rolling:
            self._rows = self._rows[-SAMPLES:]
        elif len(self._rows) > LONGEST:
            self._rows = self._rows[::2]

    def draw(self) -> None:
        """Show what is new."""
        if self._news:
            self._handle.data = self._columns()
        self._news = False

    def _columns(self) -> tuple[Any, ...]:
        return tuple(_filled(column) for column in self._rows.T)


def _filled(values: Array) -> Array:
    """The values with the last one before in the place of each NaN.

    A single NaN leaves a plot of viser without any line.
    """
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values))
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), np.argmax(known)))
    return np.ascontiguousarray(values[last])


def _table(rows: Mapping[str, str], alarm: str) -> str:
    cells = "".join(
        f"<tr><td style='opacity:.6;padding-right:.8em'>{html.escape(name)}</td>"
        f"<td>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    red = f"<div id='alarm' style='color:#cf222e;font-weight:bold'>{html.escape(alarm)}</div>"
    return (
        f"<div id='status' style='padding:.2em 1em;font-size:.85em'>{red if alarm else ''}"
        f"<table>{cells}</table></div>"
    )


def _note(text: str) -> str:
    return f"<div id='notice' style='padding:.2em 1em;color:#9a6700'>{html.escape(text)}</div>"


class _ClosedServer(viser.ViserServer):
    """A viser server that no visitor can open to the internet."""

    @override
    def request_share_url(self, verbose: bool = True) -> str | None:
        """Refuse: viser would lay a tunnel for anybody who asks."""
        return None


def _listen(host: str, port: int, label: str) -> viser.ViserServer:
    """Start the server.

    Raises:
        DeployError: nothing can listen at this address.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as trial:
            trial.bind((host, 0))
        with (
            _same_origin(local=host == LOOPBACK),
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            return _ClosedServer(host, port, label, verbose=False)
    except OSError as error:
        raise DeployError(f"cannot listen at {host}: {error}") from None


@contextlib.contextmanager
def _same_origin(*, local: bool) -> Iterator[None]:
    """Let servers that start meanwhile refuse what pages of other sites send.

    Any page that a visitor has open could otherwise talk to this one. viser has no setting for it.

    Args:
        local: whether the server must be asked for by a name of this machine, so that no foreign
            name can be made to point at it.
    """
    module = websockets.asyncio.server
    serve = module.serve

    def guarded(*arguments: Any, **settings: Any) -> Any:  # noqa: ANN401 - as of websockets
        inner = settings["process_request"]

        def process(connection: Any, request: Any) -> Any:  # noqa: ANN401
            host = request.headers.get("Host", "")
            origin = request.headers.get("Origin")
            foreign = origin is not None and urlsplit(origin).netloc != host
            if foreign or (local and not _LOCAL.fullmatch(host)):
                return connection.respond(403, "this page is for its own machine\n")
            return inner(connection, request)

        return serve(*arguments, **{**settings, "process_request": process})

    module.serve = guarded  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        module.serve = serve  # type: ignore[misc]
