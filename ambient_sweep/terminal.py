"""Where the lines of a command go: above a live display and a bar in a terminal, else to a log, with sparse counts."""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ambient_sweep.object_store import with_urls

LOG_SECONDS, DRAW_SECONDS = 30.0, 0.25  # between two lines on some work, in a log; between two pictures of a bar
COLUMNS = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


class Screen(contextlib.AbstractContextManager["Screen"]):
    """Prints lines through `echo`, always to the standard output there is when the screen is made.

    live: where that is a terminal, `show` keeps a display below the lines, and `advance` a bar; both are gone when the block
    ends. They are drawn by the calls alone, without a thread. A terminal that was closed takes nothing, and ends nothing.
    """

    def __init__(self, echo: Callable[[str], None], *, live: bool = False) -> None:
        self._echo, self._stdout, self._console = echo, sys.stdout, Console(file=sys.stdout)
        self.live = live and sys.stdout.isatty() and self._console.is_interactive
        self._display = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._lines, self._bar = Text(), Progress(*COLUMNS, console=self._console, auto_refresh=False)
        self._task = self._bar.add_task("", visible=False)
        self._drawn, self._told = 0.0, time.monotonic()

    def __enter__(self) -> "Screen":
        self._before = _current.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _current.reset(self._before)
        with contextlib.suppress(OSError):
            self._display.update("")  # all of it, also in a terminal with fewer lines
            self._display.stop()

    def line(self, text: str) -> None:
        """Prints a line."""
        self._told, text = time.monotonic(), with_urls(text)
        if self._display.is_started:
            with contextlib.suppress(OSError):
                self._console.print(Text(text), soft_wrap=True)
        else:
            with contextlib.redirect_stdout(self._stdout):
                self._echo(text)

    def show(self, lines: Callable[[int], Sequence[str]]) -> None:
        """Draws what `lines` gives for the terminal's width, in place of what it gave before; on a live screen only."""
        self._lines = Text("\n".join(lines(self._console.width)))
        self._draw()

    def advance(self, what: str, done: int, total: int) -> None:
        """Draws how far a piece of work is, until it is done; in a log, says so now and then."""
        now = time.monotonic()
        if not self.live:
            if now - self._told >= LOG_SECONDS:
                self.line(f"{what}: {done:,} of {total:,}")
            return
        if what != self._bar.tasks[0].description:
            self._bar.reset(self._task, description=what)
        self._bar.update(self._task, completed=done, total=total, visible=done < total)
        if done >= total or now - self._drawn >= DRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        with contextlib.suppress(OSError):
            self._display.start()
            self._console.show_cursor()  # a second signal ends the process at once, and nothing would bring it back
            self._display.update(Group(self._lines, self._bar, ""), refresh=True)


_current: ContextVar[Screen | None] = ContextVar("current", default=None)


def current_screen(echo: Callable[[str], None]) -> Screen:
    """The screen in whose block this is called or, if there is none, a plain one."""
    return _current.get() or Screen(echo)


def advance(what: str, done: int, total: int) -> None:
    """Tells the screen in whose block this is called, if any, how much of a piece of work is done."""
    if (screen := _current.get()) is not None:
        screen.advance(what, done, total)
