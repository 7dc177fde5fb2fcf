"""Several models of one shape trained together in one process: what a step of each costs beside its products is shared.

Each member is trained as `loop.train` trains it: on its own draws, functions of its seed and position, with its own learning
rate, moments, clipping, averages, consistency and stop. Only rounding may differ. tests/benchmarks/packing.py measures what
it gains, `packed_probe.packing_gain` on the machine at hand.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from ambient_sweep.config import Config
from ambient_sweep.data.observed import Observed
from ambient_sweep.errors import TrainingDiverged, UserError
from ambient_sweep.training.health import check_finite, check_spike
from ambient_sweep.training.loader import ahead, weight_at
from ambient_sweep.training.loop import Record, never
from ambient_sweep.training.packed_memory import PackedStates, same_parameters
from ambient_sweep.training.packed_step import Feed, PackedStepper, feed, structure
from ambient_sweep.training.schedules import learning_rate
from ambient_sweep.training.state import FUSED, TrainState
from ambient_sweep.training.step import CONSISTENCY, MAIN, NORM, REWIND_FACTOR
from ambient_sweep.training.stream import Stream

Outcome = Record | TrainingDiverged


def stays(index: int) -> bool:
    """The caller that takes no member out."""
    return False


def pack_key(config: Config) -> str:
    """Configs with the same key, on images of one shape, can be trained in one pack.

    Raises UserError that names the key where a config cannot be packed at all.
    """
    c, plain = config.compute, "or train it by itself"
    for key, value, wanted in (
        ("compute.precision", c.precision, "float32"),
        ("compute.compile", c.compile, False),
        ("compute.channels_last", c.channels_last, False),
        ("compute.activation_checkpointing", c.activation_checkpointing, False),
        ("compute.accumulate", c.accumulate, 1),
        ("compute.parallel", c.parallel, "ddp"),
        ("resources.workers", config.resources.workers, 1),
    ):
        if value != wanted:
            raise UserError(f"{key}: {value} cannot be trained in a pack; use {wanted}, {plain}")
    return f"{config.model.model_dump_json()} {config.training.batch_size}"


def train_packed(
    configs: Sequence[Config],
    observeds: Sequence[Observed],
    states: Sequence[TrainState],
    *,
    stops: Sequence[frozenset[int]] = (),
    interrupted: Callable[[], bool] = never,
    leaves: Callable[[int], bool] = stays,
) -> Generator[list[tuple[int, Outcome]], None, None]:
    """Trains each state from where it is to its config's training.stop, in place; yields [(index, record), ...] of a step.

    They, `stops` (of each member) and `interrupted` are as in `loop.train`. A member that `leaves(index)` names gets a last
    record at the end of the step and is trained no further; so does one at its end, while the others go on. One that
    diverges yields its TrainingDiverged, where `loop.train` raises it, and harms no other. Between two steps every state
    can be saved and evaluated; it may be changed only after its last record. Raises UserError, at once, for configs that
    cannot be packed (together), and ValueError for lists that do not fit each other.
    """
    stops = stops or [frozenset()] * len(configs)
    if not len(configs) == len(observeds) == len(states) == len(stops):
        raise ValueError(
            f"{len(configs)} configs, {len(observeds)} observations, {len(states)} states, {len(stops)} stops"
        )
    for index, (config, state) in enumerate(zip(configs, states, strict=True)):
        _check(config, state, configs[0], states[0], index)
        state.config = config
        state.denoiser.train()
    members = [_Member(*parts) for parts in zip(range(len(states)), configs, observeds, states, stops, strict=True)]
    return _train(members, interrupted, leaves)


def _check(config: Config, state: TrainState, first: Config, first_state: TrainState, index: int) -> None:
    if pack_key(config) != pack_key(first):
        what = "training.batch_size" if config.model == first.model else "model"
        raise UserError(f"{what}: that of member {index} is not that of member 0; train them in packs of their own")
    same = same_parameters(*(dict(s.denoiser.named_parameters()) for s in (state, first_state)))
    if not same or (state.shape, state.classes) != (first_state.shape, first_state.classes):
        raise UserError(
            f"data: the images of member {index} have another shape or other classes than those of member 0"
        )
    if state.device.type not in FUSED or state.device != first_state.device:
        raise UserError(f"resources: member {index} is on {state.device}; a pack is trained on one CPU or one CUDA GPU")


@dataclass
class _Member:
    index: int
    config: Config
    observed: Observed
    state: TrainState
    stops: frozenset[int]
    began: float = field(default_factory=time.perf_counter)
    counted: int = 0  # images since the last record

    def __post_init__(self) -> None:
        t = self.config.training
        self.stream = Stream(self.observed, self.config.seed, self.config.data.flip)
        self.every = max(1, self.config.steps // t.records)
        self.last = self.config.images_at(t.stop) // t.batch_size  # steps at its end

    @property
    def step(self) -> int:
        return self.state.images // self.config.training.batch_size

    def lr(self, step: int) -> float:
        """In a step, counted from 0."""
        progress = (step + 1) / self.config.steps
        return learning_rate(self.config.optimizer, progress) * REWIND_FACTOR**self.state.rewinds

    def order(self) -> tuple[str, float]:
        """Members that begin consistency one after another, of one structure, lie side by side."""
        if self.config.objective.kind != "ambient_consistency":
            return "", 0.0
        return str(structure(self.config)), self.config.consistency.start * self.config.steps - self.step

    def outcome(self, regular: bool, ends: bool, weight: float, lr: float) -> Outcome:
        """The record due after the step that was made, or why there is none; as `loop.train` makes it."""
        state = self.state
        mean = (state.sums / ((self.step - 1) % self.every + 1)).tolist()
        try:
            check_finite(state.images, mean[MAIN], mean[CONSISTENCY], mean[NORM])
            if regular or ends:
                losses = state.losses if regular else state.losses.copy()
                check_spike(state.images, mean[MAIN], losses, self.config.training.spike)
            if regular:
                state.sums.zero_()
        except TrainingDiverged as error:
            return error
        pace = self.counted / max(time.perf_counter() - self.began, 1e-9)
        self.began, self.counted = time.perf_counter(), 0
        return Record(state.images, mean[MAIN], mean[CONSISTENCY], weight, mean[NORM], lr, pace)


@dataclass(frozen=True)
class _Told:
    member: _Member
    outcome: Outcome
    last: bool  # whether it is trained no further


def _train(
    members: list[_Member], interrupted: Callable[[], bool], leaves: Callable[[int], bool]
) -> Generator[list[tuple[int, Outcome]], None, None]:
    members = [member for member in members if member.step < member.last]
    while members:
        members.sort(key=_Member.order)
        told: list[_Told] = []
        try:
            with closing(_until_one_leaves(members, interrupted, leaves)) as steps:
                for told in steps:
                    if any(each.last for each in told):
                        break
                    yield [(each.member.index, each.outcome) for each in told]
        finally:
            for member in members:
                PackedStates.release(member.state)
        yield [(each.member.index, each.outcome) for each in told]
        gone = {each.member.index for each in told if each.last}
        members = [member for member in members if member.index not in gone]


def _until_one_leaves(
    members: list[_Member], interrupted: Callable[[], bool], leaves: Callable[[int], bool]
) -> Generator[list[_Told], None, None]:
    """Trains them in one pack, and tells after each step whose record is due, if any is."""
    configs, streams = [member.config for member in members], [member.stream for member in members]
    begin = [member.step for member in members]
    device = members[0].state.device
    stepper = PackedStepper(PackedStates([member.state for member in members]), configs)

    def make(number: int) -> Feed:
        return feed(configs, streams, [step + number for step in begin])

    numbers = range(min(member.last - member.step for member in members))
    with closing(ahead(make, numbers, max(config.compute.prefetch for config in configs))) as feeds:
        for number, made in zip(numbers, feeds, strict=True):
            steps = [step + number for step in begin]
            rates = [member.lr(step) for member, step in zip(members, steps, strict=True)]
            sizes = [config.training.batch_size for config in configs]
            stepper.step(
                made if device.type == "cpu" else made.to(device),
                rates,
                before=[step * size for step, size in zip(steps, sizes, strict=True)],
                after=[(step + 1) * size for step, size in zip(steps, sizes, strict=True)],
            )
            stopping, told = interrupted(), []
            for member, step, lr in zip(members, steps, rates, strict=True):
                member.counted += member.config.training.batch_size
                leaving, ends = stopping or leaves(member.index), step + 1 == member.last
                regular = (step + 1) % member.every == 0 or step + 1 == member.config.steps
                if leaving or ends or regular or member.state.images in member.stops:
                    outcome = member.outcome(regular, ends, weight_at(member.config, step), lr)
                    last = leaving or ends or isinstance(outcome, TrainingDiverged)
                    told.append(_Told(member, outcome, last))
            if told:
                yield sorted(told, key=lambda each: each.member.index)
