"""All that waits for a GPU, in one command of at most 8 minutes: `python tests/gpu/check.py --out FOLDER`.

Each part runs in a process of its own; a row is printed, and kept in FOLDER/rows.jsonl, as soon as it is known. A part that
fails or takes too long says so, and the others go on; one that needs a package which is missing names it. At the end, or
by `--table FOLDER` alone, come the tables of docs/gpu.md. `--parts NAME ...` runs a few parts, whose new rows replace the
old ones in FOLDER. `--device cpu --tiny` tries everything out: its numbers mean nothing.
"""

import argparse
import functools
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # CUDA must not start before a part's own process does
import gpu_parts as parts
import torch
from gpu_parts import ENCODERS, KNOBS, PRESETS, Row, Setting
from sampling import COMPILED, WAYS
from sdxl_size import Size, true_size

from ambient_sweep.latent import EXTRA
from ambient_sweep.provenance import code_revision, versions

SECONDS, PART = 480, 200  # of all parts, and of one at most
FORK = multiprocessing.get_context("fork")  # parts need not import torch again

SPEED, SAMPLING, SDXL, CHECKS = "Training speed", "Sampling speed", "LoRA on a UNet of SDXL's size", "Checks"
TABLES: dict[str, Row] = {  # the columns of each
    SPEED: ("network", "compile", "images/s", "peak memory", "share of the matrix peak"),
    SAMPLING: ("way", "images/s"),
    SDXL: ("batch", "objective", "activation checkpointing", "peak memory", "seconds a step"),
    CHECKS: ("check", "holds"),
}


@dataclass(frozen=True)
class Part:
    table: str
    labels: tuple[Row, ...]  # the first cells of its rows
    work: Callable[[Setting], Iterator[Row]]  # gives the other cells of each
    needs: tuple[str, ...] = ()  # packages that some installations lack


def _checks(work: Callable[[Setting], Iterator[Row]], *labels: str, needs: tuple[str, ...] = ()) -> Part:
    return Part(CHECKS, tuple((label,) for label in labels), work, needs)


def _tolerances(*names: str) -> Part:
    labels = (f"`compute.{name}`: " + _bounds(*KNOBS[name][1:]) for name in names)
    return _checks(functools.partial(parts.tolerances, names=names), *labels)


def _bounds(weights: float, losses: float) -> str:
    return f"weights within {weights:g}, losses within {losses:g}" if weights else "the same bits as without"


def _training_speed(compiled: bool) -> Part:
    labels = tuple((preset, "yes" if compiled else "no") for preset in PRESETS)
    return Part(SPEED, labels, functools.partial(parts.training_speed, compiled=compiled))


def _sampling_speed(ways: dict[str, dict[str, object]]) -> Part:
    return Part(SAMPLING, tuple((way,) for way in ways), functools.partial(parts.sampling_speed, ways=ways))


def _true_size(*sizes: Size) -> Part:
    labels = tuple((str(batch), kind, "yes" if checkpointing else "no") for batch, kind, checkpointing in sizes)
    return Part(SDXL, labels, functools.partial(true_size, sizes=sizes), EXTRA)


PLAIN, BOTH = "ambient", "ambient_consistency"
PARTS: dict[str, Part] = {  # in the order in which they run: those that compile last
    "trial": _checks(
        parts.pixel_trial,
        "a trial with `resources.gpus=1`: training, sampling, evaluation",
        "the trial on a CPU: weights within 5e-3",
        "the trial interrupted half way and resumed: the same bits",
    ),
    "lora trial": _checks(
        parts.latent_trial,
        "a LoRA trial on latents in bf16, on a tiny SDXL",
        "the LoRA trial on a CPU: weights within 5e-3",
        "the LoRA trial interrupted half way and resumed: the same bits",
        needs=EXTRA,
    ),
    "lora size": _true_size(*((batch, kind, True) for batch in (1, 2, 4) for kind in (PLAIN, BOTH))),
    "lora size, plain": _true_size(*((batch, PLAIN, False) for batch in (1, 2, 4))),
    "tolerances": _tolerances(*(name for name in KNOBS if name != "compile")),
    "sampling": _checks(parts.sample_bits, "`sampling.mode=exact`: the same bits for any batch size; `fast` near them"),
    "neighbours": _checks(parts.neighbours, "nearest neighbours: the same bits as on a CPU"),
    "stages": _checks(
        parts.stages,
        "stages made on a CPU are not used on a GPU",
        "a forked trial: the same bits as an unforked one",
    ),
    "encoders": _checks(parts.encoders, *(f"`{distance}`: features within 1e-4 of a CPU's" for distance in ENCODERS)),
    "workers": _checks(parts.workers, "two workers with nccl: weights within 1e-5 of one worker's"),
    "training speed": _training_speed(compiled=False),
    "sampling speed": _sampling_speed(WAYS),
    "sweep": _checks(parts.sweep, "a sweep with `resources.gpus=1`, and its confirmation", needs=("ray", "optuna")),
    "tolerance of compile": _tolerances("compile"),
    "training speed, compile": _training_speed(compiled=True),
    "sampling speed, compile": _sampling_speed(COMPILED),
}


# -- running ----------------------------------------------------------------------------------------------------------


def rows_in(folder: Path) -> list[dict[str, object]]:
    """What is kept there, oldest first."""
    file = folder / "rows.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def keep(folder: Path, table: str, label: Row, cells: Row, where: str = "") -> None:
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"table": table, "label": label, "cells": cells, "where": where}) + "\n")
    print(f"{table}: {_row(label + cells)}", flush=True)


def where(s: Setting) -> str:
    name = torch.cuda.get_device_name() if s.device == "cuda" else "CPU"
    found = ", ".join(f"{package} {version}" for package, version in versions().items())
    return f"{name}; {found}; commit {code_revision()}{'; tiny sizes, whose numbers mean nothing' if s.tiny else ''}"


def work(part: Part, s: Setting, out: Path, errors: int) -> None:
    """The process of a part, and the first of those that it starts."""
    os.setsid()
    sys.stderr = os.fdopen(os.dup2(errors, 2), "w", buffering=1)
    torch.set_num_threads(1)
    for label, cells in zip(part.labels, part.work(s), strict=True):
        keep(out, part.table, label, cells, where(s))


def run(name: str, part: Part, device: str, tiny: bool, out: Path, seconds: float) -> None:
    """Keeps all rows of a part; those that it does not give say why."""
    known, others = len(rows_in(out)), f"not run: {name} ended before"
    if missing := _missing(part.needs):
        reason = others = f"not run: needs {', '.join(missing)}"
    elif seconds <= 0:
        reason = others = "not run: no time was left"
    else:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
            setting = Setting(device, tiny, Path(folder))
            process = FORK.Process(target=work, args=(part, setting, out, errors.fileno()))
            process.start()
            try:
                process.join(min(seconds, PART))
            finally:
                late = process.is_alive()
                process.kill()
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.join()
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
        print(said, end="\n" * bool(said), file=sys.stderr, flush=True)
        last = said.splitlines()[-1][:200].replace("|", "/") if said else f"exit code {process.exitcode}"
        reason = f"failed (exit code {process.exitcode}): {last}"
        if late:
            reason = f"failed: took more than {min(seconds, PART):.0f} s"
    for label in part.labels[len(rows_in(out)) - known :]:
        keep(out, part.table, label, _filled(part.table, label, reason))
        reason = others


# -- printing ---------------------------------------------------------------------------------------------------------


def _row(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def _missing(packages: Row) -> list[str]:
    return [package for package in packages if find_spec(package) is None]


def _filled(table: str, label: Row, words: str) -> Row:
    return (words,) + ("-",) * (len(TABLES[table]) - len(label) - 1)


def tables(folder: Path) -> str:
    """docs/gpu.md's tables in Markdown, from the newest rows kept in `folder`."""
    found = {(row["table"], *row["label"]): row for row in rows_in(folder)}
    lines = [f"Measured on {place}.\n" for place in dict.fromkeys(row["where"] for row in found.values()) if place]
    for table, columns in TABLES.items():
        lines += [f"## {table}\n", _row(columns), "|" + "---|" * len(columns)]
        for label in (label for part in PARTS.values() if part.table == table for label in part.labels):
            row = found.get((table, *label))
            lines.append(_row(label + (_filled(table, label, "not run") if row is None else tuple(row["cells"]))))
        lines.append("")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), metavar="FOLDER", help="by default gpu-check")
    parser.add_argument("--table", type=Path, metavar="FOLDER", help="only print the tables")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(words)
    if asked.table is None:
        end = time.monotonic() + SECONDS
        asked.out.mkdir(parents=True, exist_ok=True)
        if asked.device == "cpu" and not _missing(EXTRA):
            import_module("ambient_sweep.models.lora")  # once for all parts; under CUDA it might start that here
        for name in asked.parts:
            run(name, PARTS[name], asked.device, asked.tiny, asked.out, end - time.monotonic())
    print("\n" + tables(asked.table or asked.out))


if __name__ == "__main__":
    main()
