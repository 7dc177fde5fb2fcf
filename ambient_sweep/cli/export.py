"""export: what others take from a run."""

from pathlib import Path

import click

from ambient_sweep.cli.group import commands
from ambient_sweep.cli.printing import PATH, as_json, new_folder_option, tell, terminal
from ambient_sweep.errors import UserError


@commands.command()
@click.argument("checkpoint", type=PATH)
@new_folder_option("--to", required=True, help="New or empty folder.")
@as_json
def export(checkpoint: Path, to: Path, as_json: bool) -> None:
    """Write the model in CHECKPOINT (a checkpoint, or a trial's longest training) for others to use.

    The folder holds model.safetensors, config.yaml and a model card with what was measured; `sample` and `evaluate` take
    it as it is. The license is left to you, and the config names the path of your images.
    """
    from ambient_sweep.cli.places import find_checkpoint, find_place
    from ambient_sweep.results.model_card import export_model

    if not (checkpoint / "checkpoint.json").is_file() and len(set(find_place(checkpoint))) == 1:
        raise UserError(f"{checkpoint}: is a run; give one of its trials or checkpoints, such as `best` names")
    found, _ = find_checkpoint(checkpoint, terminal(as_json).line)
    export_model(found, to.absolute())
    lines = [f"{to}: model.safetensors, checkpoint.json, config.yaml, README.md; add a license to README.md"]
    tell({"checkpoint": str(found), "to": str(to)}, lines, as_json)
