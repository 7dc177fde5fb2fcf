"""Output that the commands share, and options that they share."""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import TypeAdapter

from ambient_sweep import trust
from ambient_sweep.config.files import expanded
from ambient_sweep.errors import UserError
from ambient_sweep.object_client import is_url
from ambient_sweep.object_store import OPENED, open_url, with_urls
from ambient_sweep.storage import write_atomic
from ambient_sweep.sweep.space.file import check_name
from ambient_sweep.text import command

if TYPE_CHECKING:
    from ambient_sweep.terminal import Screen


MOVED = ("data.path", "model.base")  # keys of a latent model's config that another machine may need otherwise


class Finite(click.FloatRange):
    """A range that nan is not in."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        found = super().convert(value, parameter, context)
        if math.isnan(found):
            self.fail(f"{value} is not a number", parameter, context)
        return found


class _Path(click.Path):
    """A path, with `~` replaced by the home folder."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        name = parameter.opts[0] if parameter else "path"
        if is_url(str(value)):
            raise UserError(f"{name}: {value}: give a file or folder here, not a URL")
        return expanded(name, Path(str(super().convert(value, parameter, context))))


class _Place(_Path):
    """A path or a URL of an object store, which is opened with the files that match `names`."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = names

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        return open_url(value, *self._names) if is_url(str(value)) else super().convert(value, parameter, context)


PATH = _Path()
RUN, STORAGE = _Place(*OPENED), _Place()  # where runs are read, and where one is written


def located(run: str) -> Path:
    """The folder of a run that is given by its path or URL."""
    place: Path = RUN.convert(run, None, None)
    return place


def check_new(option: str, path: Path, *, folder: bool = False) -> None:
    """Raises UserError where a new file, or a new or empty folder, exists or cannot be written."""
    if path.exists() and not (folder and path.is_dir() and not any(path.iterdir())):
        what = " and is not an empty folder" if folder else ""
        raise UserError(f"{option}: {path} already exists{what}; remove it or give another")
    parent = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{option}: {path} cannot be written: {parent} is not a writable folder")


def _refused(check: Callable[..., object]) -> Callable[..., Any]:
    """A callback that refuses what an option holds, by the option's name and before hours of work."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is not None:
            check(parameter.opts[0], value)
        return value

    return callback


def new_file_option(help: str) -> Callable[..., Any]:
    """--out for a new file."""
    return click.option("--out", type=PATH, callback=_refused(check_new), help=help)


def new_folder_option(name: str, **more: Any) -> Callable[..., Any]:
    """An option for a folder that is new or empty."""
    check = partial(check_new, folder=True)
    return click.option(name, type=PATH, callback=_refused(check), **more)


as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
out_option = new_file_option("New file for the result as JSON.")
storage_option = click.option(
    "--storage", type=STORAGE, default=Path("runs"),
    help="Folder of all runs, on a cluster an absolute path that every node can read and write; or a URL (s3://, gs://, abfs://).",
)  # fmt: skip
name_option = click.option("--name", callback=_refused(check_name), help="Name of the run; by default that of FILE.")
trust_option = click.option(
    "--trust", is_flag=True, expose_value=False, callback=lambda context, option, given: trust.give(given),
    help="Run what the files name: an encoder that is a TorchScript program; follow symbolic links in a run.",
)  # fmt: skip
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def terminal(as_json: bool) -> "Screen":
    """Prints progress to standard output, live in a terminal; or to standard error where standard output is for JSON."""
    from ambient_sweep.terminal import Screen

    return Screen(partial(click.echo, err=as_json), live=not as_json)


def tell(result: dict[str, Any], lines: list[str], as_json: bool, out: Path | None = None) -> None:
    """Prints the lines, or the result as JSON, with null for floats that are not finite; out: file for the JSON as well."""
    document = TypeAdapter(dict[str, Any]).dump_json(result, indent=1, fallback=str)
    click.echo(with_urls(document.decode() if as_json else "\n".join(lines)))
    if out is not None:
        write_atomic(out, document + b"\n")


def tell_summary(summary: Any, as_json: bool) -> None:
    """Prints a sweep's results: counts, frontier, best config and files."""
    from ambient_sweep.results.frontier.select import point

    counts = ", ".join(f"{number} {status}" for status, number in summary.counts.items())
    lines = [f"trials: {counts}", "frontier:", *(f"  {point(row)}" for row in summary.frontier)]
    lines += ["best: " + summary.best_reason, *([f"  {point(summary.best)}"] if summary.best else [])]
    lines += [each for each in (summary.noise, summary.untouched) if each]
    lines += [f"{name:<20} {path}" for name, path in summary.files.items()]
    lines.append(f"{'TensorBoard':<20} {command('tensorboard', summary.root)}")
    result = {
        "folder": str(summary.root), "trials": summary.counts, "frontier": summary.frontier, "best": summary.best,
        "reason": summary.best_reason, "noise": summary.noise, "untouched": summary.untouched,
        "files": {name: str(path) for name, path in summary.files.items()},
    }  # fmt: skip
    tell(result, lines, as_json)
