"""A trained model for others: weights, config, and a model card that says what was measured."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from jinja2 import StrictUndefined, Template
from safetensors.torch import load_file, save_file

from ambient_sweep import __version__
from ambient_sweep.config import write_config
from ambient_sweep.models import base_of, count_parameters
from ambient_sweep.storage import new_folder
from ambient_sweep.training.state import load_model
from ambient_sweep.trial.records import EvaluationRecord, read_remeasurements, read_trial_evaluations
from ambient_sweep.trial.retention import is_of_trial

LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name


def export_model(checkpoint: Path, folder: Path, moved: Mapping[str, str] | None = None) -> None:
    """Writes a checkpoint, its config as config.yaml and a model card, README.md, to the new `folder`, all or nothing.

    Of LoRA, also the weights as diffusers' load_lora_weights takes them. The card's values are those in the records of the
    checkpoint's trial; for one that `average` wrote there are none. moved: as for `load_model`. Raises UserError for a
    checkpoint that is missing or damaged.
    """
    model, config, notes = load_model(checkpoint, moved=moved)
    evaluations = measured(checkpoint, notes["images"])
    template = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    card = Template(template, undefined=StrictUndefined, keep_trailing_newline=True).render(
        name=folder.name,
        config=config,
        notes=notes,
        parameters=count_parameters(model),
        base=base_of(config.model) if config.model.kind == "lora" else None,
        version=__version__,
        evaluations=evaluations,
        last=max((each.seed for each in evaluations), default=0),
    )
    with new_folder(folder) as aside:
        for name in ("model.safetensors", "checkpoint.json"):  # what `sample` and `evaluate` need
            shutil.copyfile(checkpoint / name, aside / name)
        write_config(config, aside / "config.yaml")
        if config.model.kind == "lora":
            from ambient_sweep.models.lora import lora_weights  # as load_model did

            weights = lora_weights(load_file(aside / "model.safetensors"), base_of(config.model))
            save_file(weights, aside / LORA_FILE, {"format": "pt"})
        (aside / "README.md").write_text(card, encoding="utf-8")


def measured(checkpoint: Path, images: int) -> list[EvaluationRecord]:
    """The evaluations of the checkpoint of a trial; none for any other folder. Raises UserError for a damaged record."""
    checkpoint = checkpoint.absolute()
    if not is_of_trial(checkpoint):
        return []
    trial = checkpoint.parents[1]
    place = trial.parents[1], trial.name
    return [each for each in (*read_trial_evaluations(*place), *read_remeasurements(*place)) if each.images == images]
