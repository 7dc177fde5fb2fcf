"""The study's file: Optuna's journal, written by the driver alone, so without a lock file and without a copy in memory.

Every operation is one line, handed to the operating system at once, so that a driver that is killed loses none; the file
is flushed to the disk at most every second, and when it is closed. Optuna's own JournalFileBackend and optuna-dashboard
open it at any time. What another program appends (a note in optuna-dashboard) is left in place and taken into account.
The format is that of optuna.storages.journal, version 5.
"""

import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState, create_trial

from ambient_sweep.errors import UserError

FLUSH_SECONDS = 1.0


class StudyJournal:
    """Appends to the journal at `path`, which holds `trials` trials of any study; the study has the id `study`."""

    def __init__(self, path: Path, study: int = 0, trials: int = 0) -> None:
        self._path, self._study, self._trials = path, study, trials
        self._worker = f"{uuid.uuid4()}-0"
        self._file: int | None = None
        self._size = path.stat().st_size if path.exists() else 0
        self._flushed = time.monotonic()
        self._unflushed = False
        self._texts: dict[BaseDistribution, str] = {}

    def begin(self, name: str, objectives: int) -> None:
        """The first line: a study of `objectives` objectives, which are minimised."""
        self._append(JournalOperation.CREATE_STUDY, {"study_name": name, "directions": [1] * objectives})

    def add(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        state: TrialState = TrialState.RUNNING,
        *,
        values: Sequence[float] | None = None,
        attrs: Mapping[str, Any] | None = None,
        system: Mapping[str, Any] | None = None,
    ) -> int:
        """A new trial; returns its id in the file."""
        now = _now()
        log: dict[str, Any] = {
            "study_id": self._study,
            "datetime_start": now,
            "state": int(state),
            "value": None,
            "values": None if values is None else [float(v) for v in values],
            "distributions": {key: self._text(distributions[key]) for key in params},
            "params": {key: distributions[key].to_internal_repr(value) for key, value in params.items()},
            "user_attrs": dict(attrs or {}),
            "system_attrs": dict(system or {}),
            "intermediate_values": {},
        }
        if state.is_finished():
            log["datetime_complete"] = now
        self._take_in()
        self._append(JournalOperation.CREATE_TRIAL, log)
        self._trials += 1
        return self._trials - 1

    def end(self, trial: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        """How a running trial ended."""
        numbers = None if values is None else [float(v) for v in values]
        log = {"trial_id": trial, "state": int(state), "values": numbers, "datetime_complete": _now()}
        self._append(JournalOperation.SET_TRIAL_STATE_VALUES, log)

    def set_attr(self, trial: int, key: str, value: Any) -> None:
        """A user attribute of a running trial."""
        self._append(JournalOperation.SET_TRIAL_USER_ATTR, {"trial_id": trial, "user_attr": {key: value}})

    def set_system_attr(self, trial: int, key: str, value: Any) -> None:
        """A system attribute of a running trial, where Optuna keeps constraints."""
        self._append(JournalOperation.SET_TRIAL_SYSTEM_ATTR, {"trial_id": trial, "system_attr": {key: value}})

    def set_study_attr(self, key: str, value: Any) -> None:
        """A user attribute of the study."""
        self._append(JournalOperation.SET_STUDY_USER_ATTR, {"study_id": self._study, "user_attr": {key: value}})

    def tick(self) -> None:
        """Flushes what was written, if the last time is a second ago."""
        if self._unflushed and time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        """Flushes, and lets go of the file; the next line opens it again."""
        if self._file is not None:
            self._flush()
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, operation: JournalOperation, fields: Mapping[str, Any]) -> None:
        line = json.dumps({"op_code": int(operation), "worker_id": self._worker, **fields}, separators=(",", ":"))
        data = line.encode() + b"\n"
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            written = os.write(self._file, data)
            self._size += written
            if written < len(data):  # half a line: the disk is full
                os.ftruncate(self._file, self._size - written)
                raise OSError(28, "no space left on the device")
            self._unflushed = True
            self.tick()
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror}); free space, then resume") from None

    def _flush(self) -> None:
        if self._file is not None:
            os.fsync(self._file)
        self._flushed, self._unflushed = time.monotonic(), False

    def _take_in(self) -> None:
        """Counts the trials that another program appended: ids go on behind them."""
        size = self._size if self._file is None else os.fstat(self._file).st_size
        if size == self._size:
            return
        with self._path.open("rb") as file:
            file.seek(self._size)
            foreign = file.read(size - self._size)
        for line in foreign.splitlines():
            self._trials += json.loads(line)["op_code"] == JournalOperation.CREATE_TRIAL
        self._size = size

    def _text(self, distribution: BaseDistribution) -> str:
        text = self._texts.get(distribution)
        if text is None:
            text = self._texts[distribution] = distribution_to_json(distribution)
        return text


def constraint_attrs(constraints: Mapping[str, float]) -> dict[str, float]:
    """The system attributes under which Optuna keeps a trial's constraints (`Trial.set_constraint`)."""
    attrs: dict[str, float] = create_trial(state=TrialState.FAIL, constraints=dict(constraints)).system_attrs
    return attrs


def cut_torn_line(path: Path) -> None:
    """A machine that died while writing leaves half a line at the end; Optuna would refuse the whole file."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
