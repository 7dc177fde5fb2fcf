"""Images: prepare; and the list of knobs."""

import re
from pathlib import Path

import click

from ambient_sweep.cli.group import commands
from ambient_sweep.cli.printing import PATH, Finite, as_json, overrides_argument, tell, terminal
from ambient_sweep.config import build_config, knobs, parse_overrides
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.text import command


@commands.command()
@click.argument("out", type=PATH, required=False)
@overrides_argument
@click.option(
    "--observed-only", "sigma", type=Finite(0, 100, min_open=True), metavar="SIGMA",
    help="Write only noisy observations of the training images, at this noise level; nobody can draw the noise again.",
)  # fmt: skip
@click.option(
    "--observations", metavar="SIGMA|COLUMN",
    help="The images are noisy already, at this noise level or that in this column: write the store of --observed-only.",
)  # fmt: skip
@click.option("--from", "origin", type=PATH, help="Take the images from this store of clean images.")
@click.option(
    "--latents", "base", type=PATH, metavar="BASE", help="Write latents of these for the diffusers folder BASE."
)
@click.option("--caption", metavar="TEXT", help="For --latents: the caption of all images.")
@click.option(
    "--captions", type=PATH, metavar="FILE",
    help="For --latents: a CSV, JSON lines or Parquet file with file_name and text; by default, the captions in the store.",
)  # fmt: skip
@click.option("--drop-duplicates", is_flag=True, help="Leave out copies of training images, in both parts.")
@click.option("--near", type=Finite(0, 1), default=0.1, help="Largest distance of near duplicates; 0: exact.")
@click.option("--verify", type=PATH, metavar="STORE", help="Read STORE and check every byte; write nothing.")
@as_json
def prepare(
    out: Path | None, overrides: tuple[str, ...], sigma: float | None, observations: str | None, origin: Path | None,
    base: Path | None, caption: str | None, captions: Path | None, drop_duplicates: bool, near: float, verify: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Decode a set of images once into the new folder OUT, a store that training maps into memory.

    KEY=VALUE are data.* keys, as in data.source=folder data.path=photos data.image_size=64 data.channels=3.
    """
    from ambient_sweep.data.prepare import prepare as write
    from ambient_sweep.data.prepare import summary
    from ambient_sweep.data.store import read_info, store_keys, verify_store
    from ambient_sweep.evaluation.required_images import resolved

    if verify is not None:
        if out is not None:
            raise UserError("--verify: only reads STORE; omit OUT")
        info = verify_store(verify)
        lines = [f"{verify}: whole", *summary(verify, info)]
        tell({"store": str(verify), **info.model_dump(), "notes": lines}, lines, as_json)
        return
    if out is None or re.match(r"[\w.]+=", str(out)):
        raise UserError("OUT: missing; name the new folder of the store before any KEY=VALUE")
    if base is None and (caption is not None or captions is not None):
        raise UserError("--caption, --captions: only --latents reads them; add it, or leave them out")
    if base is not None:
        if origin is None or overrides or observations is not None or drop_duplicates:
            cure = "leave out KEY=VALUE, --observations and --drop-duplicates"
            raise UserError(
                f"--latents: takes the images and the split of a store as they are; add --from STORE, {cure}"
            )
        if caption is not None and captions is not None:
            raise UserError("--caption, --captions: say the same; keep one of them")
        _prepare_latents(out, origin, base, caption, captions, sigma, as_json)
        return
    values = parse_overrides(overrides, ("data.train_size", "data.heldout_size") if origin else ("data.",))
    if origin is None and values.get("data.source") == "store":
        raise UserError("data.source: to prepare from a store, give it as --from")
    arrived_noisy = observations is not None
    if observations is not None:
        if sigma is not None or origin is not None or "data.sigma_column" in values:
            raise UserError("--observations: does not go with --observed-only, --from or data.sigma_column")
        sigma, column = level_or_column(observations)
        values = {**values, "data.sigma_column": column}
    keys = store_keys(origin, read_info(origin)) if origin else {}
    config = build_config({"model.kind": "mlp"}, keys, values, where="prepare").data
    try:
        with terminal(as_json) as screen:
            info = write(
                out, config, screen.line,
                observed_sigma=sigma, arrived_noisy=arrived_noisy, drop_duplicates=drop_duplicates, near=near,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise AmbientSweepError(f"interrupted; nothing is left of {out}") from None
    held = info.split.heldout_size - (0 if info.duplicates["dropped"] else info.duplicates["heldout_exact"])
    lines = [*summary(out, info, origin=origin), resolved(held), f"a first sweep on it: `{command('init', out)}`"]
    lines = lines if info.observed is None else lines[:-2]
    tell({"store": str(out), **info.model_dump(), "notes": lines}, lines, as_json)


def _prepare_latents(
    out: Path, origin: Path, base: Path, caption: str | None, captions: Path | None, sigma: float | None, as_json: bool
) -> None:
    import torch

    from ambient_sweep.data.prepare import summary
    from ambient_sweep.latent.prepare import prepare_latents

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with terminal(as_json):
            info = prepare_latents(
                out, origin, base, caption=caption, captions=captions, observed_sigma=sigma, device=device
            )
    except KeyboardInterrupt:
        raise AmbientSweepError(f"interrupted; nothing is left of {out}") from None
    lines = summary(out, info, origin=origin, base=base)
    tell({"store": str(out), **info.model_dump(), "notes": lines}, lines, as_json)


def level_or_column(text: str) -> tuple[float | None, str | None]:
    """A noise level, or else the name of a column of them. Raises UserError for a level out of range."""
    try:
        level = float(text)
    except ValueError:
        return None, text
    if not 0 < level <= 100:
        raise UserError(f"--observations: {text} must be above 0 and at most 100, or the name of a column")
    return level, None


@commands.command(name="knobs")
@as_json
def knobs_command(as_json: bool) -> None:
    """List every config key with its default and what it does."""
    rows, lines = {}, []
    for key, field in knobs().items():
        text = ", ".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
        rows[key] = {"default": field.default, "help": field.description}
        lines.append(f"{key:<28} {text:<24} {field.description}")
    tell(rows, lines, as_json)
