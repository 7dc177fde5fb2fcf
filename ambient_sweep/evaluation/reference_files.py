"""A sweep's reference in a folder, which its trials share."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import Classifier, Encoders, empty_classifier
from ambient_sweep.evaluation.fidelity import Statistics
from ambient_sweep.evaluation.memorization import Nearness
from ambient_sweep.evaluation.reference import Reference, Settings
from ambient_sweep.training.files import read_tensors, write_tensors

NAME = "reference"  # of both files
_SETTINGS = TypeAdapter(Settings)


def save_reference(reference: Reference, folder: Path) -> None:
    """Writes `folder`, whole or not at all; an existing one is replaced. Raises UserError where it cannot be written."""
    notes = {"settings": _SETTINGS.dump_python(reference.settings, mode="json")}
    try:
        write_tensors(folder, NAME, _tensors(reference), notes)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None


def load_reference(folder: Path) -> Reference:
    """What `save_reference` wrote, mapped from the file. Raises UserError where a file is missing or damaged."""
    advice = "remove the folder and it will be made again"
    try:
        tensors, notes = read_tensors(folder, NAME, "cpu")
        settings = _SETTINGS.validate_python(notes["settings"])
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    except (ValidationError, KeyError):
        raise UserError(f"{folder}: of another version; {advice}") from None
    nearness = (tensors.get(f"heldout/{name}") for name in ("distances", "indices", "flips", "similarities"))
    return Reference(
        settings,
        Encoders(settings.evaluation, _classifier(tensors)),
        {
            name: Statistics(tensors[f"{name}/mean"], tensors[f"{name}/root"], settings.heldout)
            for name in settings.evaluation.distances
        },
        tensors["features"],
        tensors["train"],
        Nearness(*nearness),  # type: ignore[arg-type]
        tensors.get("similar"),
    )


def _tensors(reference: Reference) -> dict[str, Tensor]:
    tensors = {"features": reference.features, "train": reference.train}
    if reference.similar is not None:
        tensors["similar"] = reference.similar
    tensors |= {f"heldout/{name}": each for name, each in vars(reference.heldout).items() if each is not None}
    for distance, statistics in reference.statistics.items():
        tensors[f"{distance}/mean"], tensors[f"{distance}/root"] = statistics.mean, statistics.root
    if reference.encoders.classifier is not None:
        weights = reference.encoders.classifier.state_dict()
        tensors |= {f"classifier/{name}": value for name, value in weights.items()}
    return tensors


def _classifier(tensors: dict[str, Tensor]) -> Classifier | None:
    prefix = "classifier/"
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    if not weights:
        return None
    classifier = empty_classifier(weights["convolutions.0.weight"].shape[1], len(weights["output.bias"]))
    classifier.load_state_dict(weights)
    return classifier.eval().requires_grad_(False)
