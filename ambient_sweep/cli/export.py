"""export: what others take from a run."""

import click

from ambient_sweep.cli.group import commands
from ambient_sweep.cli.printing import MOVED, PATH, as_json, check_new, located, tell, terminal
from ambient_sweep.config import parse_overrides
from ambient_sweep.errors import UserError


@commands.command()
@click.argument("words", nargs=-1, required=True, metavar="SOURCE... [KEY=VALUE]...")
@click.option("--to", required=True, help="New or empty folder of a model; folder or URL (s3://, gs://) of tables.")
@as_json
def export(words: tuple[str, ...], to: str, as_json: bool) -> None:
    """Write the model in SOURCE (a checkpoint, or a trial's longest training) for others to use, or the tables of runs.

    The folder of a model holds model.safetensors, config.yaml and a model card with what was measured; `sample` and
    `evaluate` take it as it is, and so does diffusers' load_lora_weights that of LoRA. The license is left to you, and the
    config names the path of your images. KEY=VALUE says where model.base and data.path of a latent model are now.

    The tables of runs become, or are added to, a data set partitioned by run.
    """
    from ambient_sweep.cli.places import find_checkpoint, find_place
    from ambient_sweep.results.model_card import export_model
    from ambient_sweep.results.tables.dataset import export_sweeps

    overrides = [word for word in words if word.startswith(tuple(f"{key}=" for key in MOVED))]
    moved, source = parse_overrides(overrides, MOVED), [located(word) for word in words if word not in overrides]
    if not source:
        raise UserError("SOURCE: missing; give a trial or checkpoint before any KEY=VALUE")
    places = [find_place(path) for path in source if not (path / "checkpoint.json").is_file()]
    runs = [root for root, meant in places if meant == root]
    if len(runs) == len(source):
        url = to if "://" in to else str(PATH.convert(to, None, None).absolute())
        files = export_sweeps(runs, url)
        tell({"runs": [str(run) for run in runs], "to": url, "files": files}, files, as_json)
        return
    if len(source) > 1:
        raise UserError("give a single trial or checkpoint, or runs alone")
    if "://" in to:
        raise UserError(f"--to: {to}: a model is written to a folder of this machine; give its path")
    folder = PATH.convert(to, None, None)
    check_new("--to", folder, folder=True)
    found, _ = find_checkpoint(source[0], terminal(as_json).line)
    export_model(found, folder.absolute(), moved)
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    lines = [f"{to}: {names}; add a license to README.md"]
    tell({"checkpoint": str(found), "to": str(folder)}, lines, as_json)
