"""An asker in this process, or in one of its own that proposes ahead and never holds up the caller.

The other process speaks JSON, one line for a message, over its standard input and output; it ends when these close.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from queue import Empty, SimpleQueue
from typing import Any

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.sweep.asking import Asked, Asker, Space, Told, make_asker, random_draws
from ambient_sweep.sweep.candidates import Nothing, Source
from ambient_sweep.sweep.definition import Search
from ambient_sweep.sweep.distributions import read_distribution

SLOW_SECONDS = 10.0
SLOW = ("gp", "optuna", "hub")  # samplers that may take long over a proposal


def make_source(space: Space, search: Search, seen: int, ahead: int) -> Source:
    """The source of a search's proposals; where they come from another process, `ahead` of them are made beforehand."""
    slow = search.sampler.partition(":")[0] in SLOW
    seconds = (SLOW_SECONDS if slow else 0.0) if search.ask_seconds is None else search.ask_seconds
    if seconds == 0:
        return Here(make_asker(space, search, seen))
    return Elsewhere(space, search, seen, seconds=seconds, ahead=ahead)


class Here:
    """An asker in this process."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.add, self.end = asker.add, asker.end

    def propose(self, key: str) -> Asked | Nothing:
        return self._asker.ask(key) or Nothing.LEFT

    def close(self) -> None:
        """Nothing to close."""


class Elsewhere:
    """An asker in a process of its own. A proposal that takes longer than `seconds` is replaced by a random draw."""

    def __init__(
        self,
        space: Space,
        search: Search,
        seen: int = 0,
        *,
        seconds: float,
        ahead: int = 1,
        clock: Callable[[], float] = time.monotonic,
        command: tuple[str, ...] = (sys.executable, "-m", "ambient_sweep.sweep.sources"),
    ) -> None:
        self._name, self._seconds, self._ahead, self._clock = search.sampler, seconds, ahead, clock
        self._fallback = random_draws(space, search.seed, seen)
        self._answers: SimpleQueue[str] = SimpleQueue()
        self._ready: deque[tuple[str, Asked | None]] = deque()  # under the keys of the other process
        self._asked: deque[float] = deque()  # when those were asked for that are not answered
        self._names: dict[str, str] = {}  # the caller's key -> the other process's
        self._count = 0
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._outbox: SimpleQueue[str | None] = (
            SimpleQueue()
        )  # a busy process does not read, and a full pipe would block
        for work in (self._read, self._write):
            threading.Thread(target=work, name="sampler", daemon=True).start()
        space_dump = {key: distribution.dump() for key, distribution in space.items()}
        self._send({"space": space_dump, "search": search.model_dump(mode="json"), "seen": seen})

    def propose(self, key: str) -> Asked | Nothing:
        """At once: a proposal that is ready, a random draw where it is overdue, or Nothing.YET."""
        self._take_in()
        self._request()
        if self._ready:
            theirs, asked = self._ready.popleft()
            self._request()
            if asked is None:
                return Nothing.LEFT
            self._names[key] = theirs
            return asked
        if self._clock() - self._asked[0] < self._seconds:
            return Nothing.YET
        values = next(self._fallback)
        self.add(key, Told(values, "running"))
        return Asked(values, note=f"random: {self._name} took longer than {self._seconds:g} s")

    def add(self, key: str, told: Told) -> None:
        self._names[key] = f"added-{key}"
        self._send({"do": "add", "key": self._names[key], "told": asdict(told)})
        if told.ending != "running":
            del self._names[key]

    def end(self, key: str, told: Told) -> None:
        theirs = self._names.pop(key, None)
        if theirs is not None:
            self._send({"do": "end", "key": theirs, "told": asdict(told)})

    def close(self) -> None:
        """Ends the process."""
        self._outbox.put(None)
        self._process.kill()
        self._process.wait()

    def _request(self) -> None:
        while len(self._asked) + len(self._ready) < self._ahead:
            self._count += 1
            self._asked.append(self._clock())
            self._send({"do": "ask", "key": f"ask-{self._count}"})

    def _take_in(self) -> None:
        while True:
            try:
                answer = json.loads(self._answers.get_nowait())
            except Empty:
                return
            if "error" in answer:
                raise AmbientSweepError(answer["error"])
            self._asked.popleft()
            if self._asked:
                self._asked[0] = self._clock()  # its turn begins now
            asked = answer["asked"]
            self._ready.append((answer["key"], None if asked is None else Asked(**asked)))

    def _send(self, message: Mapping[str, Any]) -> None:
        self._outbox.put(json.dumps(message) + "\n")

    def _write(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it ended: the reader tells
            while (text := self._outbox.get()) is not None:
                self._process.stdin.write(text)
                self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(json.dumps({"error": f"search.sampler={self._name}: its process died"}))


def serve(lines: Any, answer: Callable[[str], None]) -> None:
    """What the other process does: builds the asker from the first line, then does as each line says."""
    first = json.loads(next(lines))
    space = {key: read_distribution(spec, key) for key, spec in first["space"].items()}
    asker = make_asker(space, Search.model_validate(first["search"]), first["seen"])
    for line in lines:
        message = json.loads(line)
        key = message["key"]
        if message["do"] == "ask":
            asked = asker.ask(key)
            answer(json.dumps({"key": key, "asked": None if asked is None else asdict(asked)}))
        else:
            told = Told(**message["told"])
            if told.objectives is not None:
                told = replace(told, objectives=(told.objectives[0], told.objectives[1]))
            (asker.add if message["do"] == "add" else asker.end)(key, told)


def main() -> None:
    output = sys.stdout
    sys.stdout = sys.stderr  # what a sampler prints is no answer

    def answer(text: str) -> None:
        output.write(text + "\n")
        output.flush()

    try:
        serve(iter(sys.stdin), answer)
    except AmbientSweepError as error:
        answer(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main()
