"""Records the training curves that the simulator replays: `python tests/benchmarks/search/record.py OUT.parquet`.

Real trials on scikit-learn's digits over every combination of `SPACE`, each measured in full at eight lengths, by the
protocol of `search_spaces/digits.yaml`. Trials that agree up to the start of their consistency are trained once up to
there, and both averages of the weights are carried along by one training: what takes hours trial by trial takes one.

`--part I/N` records every N-th group of trials, beginning with the I-th, to run side by side; `--merge` joins such files.
A file that is there already is gone on with.
"""

import argparse
import copy
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ambient_sweep.config import Config, build_config
from ambient_sweep.data.dataset import ImageData, load_data
from ambient_sweep.data.observed import ObservedImages, observe
from ambient_sweep.evaluation.evaluator import evaluate
from ambient_sweep.evaluation.reference import Reference
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import TrainState
from ambient_sweep.trial.samples import generate

LENGTHS = tuple(k / 8 for k in range(1, 9))
TRUNK: dict[str, tuple[Any, ...]] = {  # what acts from the first step on
    "model.width": (256, 128),
    "optimizer.lr": (0.003, 0.001),
    "observed.sigma": (0.05, 0.1, 0.2, 0.3, 0.45),
    "noise.mean": (-0.5, -1.2),
}
FORK: dict[str, tuple[Any, ...]] = {  # what acts from consistency.start on; weight 0: without consistency
    "consistency.start": (0.25, 0.5, 0.75),
    "consistency.weight": (0.5, 2.0),
}
POST: dict[str, tuple[Any, ...]] = {"ema.length": (0.05, 0.15)}  # what acts on what is evaluated alone
SPACE = TRUNK | FORK | POST
BASE: dict[str, Any] = {
    "data.train_size": 150,
    "model": {"kind": "mlp", "blocks": 2, "sigma_data": 0.6},
    "noise.std": 1.0,
    "optimizer.warmup": 0.08,
    "ema": {"kind": "power", "tracked": POST["ema.length"], "length": POST["ema.length"][0]},
    "training": {"images": 153_600, "batch_size": 64},
    "sampling": {"sigma_max": 20.0, "steps": 18},
    "evaluation": {
        "lengths": LENGTHS,
        "samples": 500,
        "distances": ["fd_classifier"],
        "fidelity": "fd_classifier",
        "memorization": "mem_excess",
        "extras": [],
    },
}
Row = dict[str, Any]


def groups(seeds: tuple[int, ...]) -> list[Row]:
    """The values of what acts from the first step on, one group of trials each; seeds outermost."""
    return [dict(zip(("seed", *TRUNK), values, strict=True)) for values in itertools.product(seeds, *TRUNK.values())]


class Recorder:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        config = build_config(BASE)
        self.data: ImageData = load_data(config.data)
        self.reference = Reference.build(self.data, config.evaluation)

    def record(self, group: Row) -> list[Row]:
        """All trials of a group, by one training up to each start, and one from there for each weight."""
        rows: list[Row] = []
        plain = build_config(BASE, {**group, "objective.kind": "ambient"})
        observed = observe(self.data, plain.observed, False)
        state = TrainState.create(plain, self.data.shape)
        saved: dict[float, Any] = {}
        for fraction in self._trained(plain, observed, state):
            rows += self._measured(
                plain, state, {**group, "consistency.start": 1.0, "consistency.weight": 0.0}, fraction
            )
            if fraction in FORK["consistency.start"]:
                saved[fraction] = copy.deepcopy((state.tensors(), state.images))
        for start, weight in itertools.product(*FORK.values()):
            values = {**group, "consistency.start": start, "consistency.weight": weight}
            config = build_config(BASE, values)
            forked = TrainState.create(config, self.data.shape)
            tensors, images = saved[start]
            meta = {"config": config.model_dump(mode="json"), "images": images}
            forked.restore(Path(), copy.deepcopy(tensors), meta)
            for fraction in self._trained(config, observed, forked):
                rows += self._measured(config, forked, values, fraction)
        return rows

    def _trained(self, config: Config, observed: ObservedImages, state: TrainState) -> Iterator[float]:
        """Trains to the end, and yields each fraction of LENGTHS on the way."""
        due = {config.images_at(fraction): fraction for fraction in LENGTHS}
        for record in train(config, observed, state, stops=frozenset(due)):
            if record.images in due:
                yield due[record.images]

    def _measured(self, config: Config, state: TrainState, values: Row, fraction: float) -> list[Row]:
        rows = []
        e, shape = config.evaluation, self.data.shape
        for length in POST["ema.length"]:
            weights = dict(zip(state.averages.names, state.averages.models[repr(length)], strict=True))
            samples = generate(
                config, state.with_weights(weights), shape, e.samples, e.seed, endpoints=config.endpoints(0)
            )
            for endpoint, images in samples.items():
                measures = evaluate(images, self.reference)
                rows.append(
                    {
                        **values,
                        "ema.length": length,
                        "fraction": fraction,
                        "endpoint": endpoint,
                        "fidelity": measures[e.fidelity].value,
                        "memorization": measures[e.memorization].value,
                    }
                )
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--merge", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    rows: list[Row] = pq.read_table(arguments.out).to_pylist() if arguments.out.exists() else []
    if arguments.merge:
        for file in arguments.merge:
            rows += pq.read_table(file).to_pylist()
        _write(rows, arguments.out)
        return
    part, parts = (int(word) for word in arguments.part.split("/"))
    keys = ("seed", *TRUNK)
    known = {tuple(row[key] for key in keys) for row in rows}
    recorder = Recorder()
    for group in groups(tuple(arguments.seeds))[part - 1 :: parts]:
        if tuple(group.values()) in known:
            continue
        begun = time.perf_counter()
        rows += recorder.record(group)
        _write(rows, arguments.out)
        print(group, f"{time.perf_counter() - begun:.0f} s", flush=True)


def _write(rows: list[Row], path: Path) -> None:
    """Small: measures as float32, which is far finer than their own noise."""
    table = pa.Table.from_pylist(rows)
    for index, field in enumerate(table.schema):
        if field.name in ("fidelity", "memorization"):
            table = table.set_column(index, field.name, table[field.name].cast(pa.float32()))
    pq.write_table(table, path, compression="zstd")


if __name__ == "__main__":
    main()
