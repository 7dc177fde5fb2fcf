"""What was chosen, in words and as the file that trains it again."""

from pathlib import Path

from ambient_sweep.config import write_config
from ambient_sweep.results.frontier.candidates import Row
from ambient_sweep.results.frontier.select import Choice, best_config


def point(row: Row) -> str:
    """A row of the evaluations table: what it is, and its objectives with their 95 % intervals."""
    values = (
        f"{row[f'{name}_measure']} {row[name]:.4g}"
        + (f" [{row[f'{name}_low']:.4g}, {row[f'{name}_high']:.4g}]" if row[f"{name}_low"] is not None else "")
        for name in ("fidelity", "memorization")
    )
    return (
        f"trial {row['trial_id']} ({row['role']}), {row['objective.kind']} at sigma {row['observed.sigma']:.3g}, "
        f"{row['images']:,} images, sampled to {row['endpoint']}: {', '.join(values)}"
    )


def write_best(choice: Choice, rule: str, run: str, path: Path) -> None:
    """Writes the config of a complete choice from the run of that name, with what it is and why above it."""
    write_config(best_config(choice), path, f"{run}, {rule}: {choice.reason}\n{point(choice.row)}")
