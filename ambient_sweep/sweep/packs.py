"""Small trials trained together: hosts, which hold the workers' resources, and the trials' own processes, which only wait.

A trial's process asks a host to go on with the trial up to its next report, hands that to Tune, and asks again. Between two
such calls the trial waits in the host, while the others go on. The driver tells the hosts of every trial that Tune takes
from its process (`Hosts.leave`), of which a trial in a host does not hear otherwise. This module is all that a trial's
process needs: it must not import torch, which would take most of its memory and of its start.
"""

import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import ray
from ray import tune
from ray.exceptions import RayActorError

if TYPE_CHECKING:
    from ambient_sweep.sweep.space import Sweep

CALLS = 1000  # that a host serves at once: one for each of its trials, and what it is told
Reported = dict[str, Any]


def make_hosted_trainable(hosts: Sequence[Any]) -> Callable[[dict[str, Any]], None]:
    """The function that Tune calls with a suggestion, for trials that are trained by `hosts`."""
    trainable: Callable[[dict[str, Any]], None] = tune.with_parameters(train_in_host, hosts=list(hosts))
    return trainable


def train_in_host(suggestion: dict[str, Any], *, hosts: Sequence[Any]) -> None:
    """Has a suggestion trained in the host that holds the fewest, and reports what that tells."""
    attempt = secrets.token_hex(8)
    loads = ray.get([host.load.remote() for host in hosts])
    host = hosts[loads.index(min(loads))]
    while (reported := ray.get(host.advance.remote(attempt, suggestion))) is not None:
        tune.report(reported)


@dataclass
class _Hosted:
    """A trial in its thread. It tells of its reports, then of its end: None, or what it raised."""

    attempt: str
    suggestion: dict[str, Any]
    told: "queue.SimpleQueue[Reported | BaseException | None]" = field(default_factory=queue.SimpleQueue)
    may_go_on: "queue.SimpleQueue[bool]" = field(default_factory=queue.SimpleQueue)
    leaving: threading.Event = field(default_factory=threading.Event)

    def leave(self) -> None:
        self.leaving.set()
        self.may_go_on.put(False)


class Host:
    """An actor that trains trials of the sweep in `root` together, each in a thread of its own.

    It reads the sweep from its file, since an actor that may be made anew must have no argument in Ray's object store.
    """

    def __init__(self, root: Path) -> None:
        from ambient_sweep.sweep.space import SWEEP_FILE, load_sweep
        from ambient_sweep.trial.pack import Pack

        self._sweep, self._root, self._pack = load_sweep(root / SWEEP_FILE), root, Pack()
        self._lock = threading.Lock()
        self._hosted: dict[str, _Hosted] = {}

    @ray.method(max_task_retries=-1)
    def load(self) -> int:
        """How many trials are here. Who asks a host that has died waits until Ray has started it again."""
        return len(self._hosted)

    def advance(self, attempt: str, suggestion: dict[str, Any]) -> Reported | None:
        """Begins a trial or goes on with it; gives its next report, or None at its end. Raises what the trial raises.

        `attempt` differs from one start of the trial's process to the next.
        """
        trial_id = suggestion["trial_id"]
        with self._lock:
            hosted = self._hosted.get(trial_id)
            if hosted is not None and hosted.attempt != attempt:  # its process died, and was started again
                hosted.leave()
                hosted = None
            if hosted is None:
                hosted = self._hosted[trial_id] = _Hosted(attempt, suggestion)
                threading.Thread(target=self._train, args=(hosted,), name=trial_id, daemon=True).start()
            else:
                hosted.may_go_on.put(True)
        told = hosted.told.get()
        if isinstance(told, BaseException):
            raise told
        return told

    def leave(self, trial_id: str) -> None:
        """The trial goes on elsewhere, or later, or not at all. Its folder is free as soon as its thread has left."""
        with self._lock:
            hosted = self._hosted.pop(trial_id, None)
        if hosted is not None:
            hosted.leave()

    def _train(self, hosted: _Hosted) -> None:
        try:
            self._run(hosted)
        except BaseException as error:  # noqa: BLE001 (handed to the trial's own process, which raises it)
            ended: BaseException | None = error
        else:
            ended = None
        with self._lock:
            if self._hosted.get(hosted.suggestion["trial_id"]) is hosted:
                del self._hosted[hosted.suggestion["trial_id"]]
        hosted.told.put(ended)

    def _run(self, hosted: _Hosted) -> None:
        from ambient_sweep.results.records import trial_folder
        from ambient_sweep.sweep.cluster import only_trainer
        from ambient_sweep.sweep.trainable import train_suggestion

        folder = trial_folder(self._root, hosted.suggestion["trial_id"])
        with only_trainer(folder), self._pack.member() as member:

            def report(reported: Reported) -> None:
                with member.away():
                    hosted.told.put(reported)
                    if not hosted.may_go_on.get():
                        raise SystemExit

            train_suggestion(
                hosted.suggestion,
                sweep=self._sweep,
                root=self._root,
                report=report,
                trainer=member,
                interrupted=hosted.leaving.is_set,
            )


class Hosts:
    """`count` hosts for the trials of a sweep, as long as this is entered; none where trials have processes of their own."""

    def __init__(self, sweep: "Sweep", root: Path, count: int = 0) -> None:
        self._sweep, self._root, self._count = sweep, root, count
        self.actors: list[Any] = []

    def __enter__(self) -> Self:
        need = self._sweep.some_config().resources
        actor = ray.remote(Host).options(num_cpus=need.cpus, num_gpus=need.gpus, max_restarts=-1, max_concurrency=CALLS)
        self.actors = [actor.remote(self._root) for _ in range(self._count)]
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def leave(self, trial_id: str) -> None:
        """Tells whichever host holds the trial; when this returns, it has heard."""
        for told in [actor.leave.remote(trial_id) for actor in self.actors]:
            try:
                ray.get(told)
            except RayActorError:  # it died, and its trials with it
                continue
