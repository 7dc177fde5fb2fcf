"""A sweep's reference in a folder, which its trials share."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import Classifier, Encoders, empty_classifier
from ambient_sweep.evaluation.fidelity import Statistics
from ambient_sweep.evaluation.memorization import Nearness
from ambient_sweep.evaluation.reference import FORMAT, Reference, Settings
from ambient_sweep.storage import new_folder, sha256

SETTINGS_FILE = "reference.json"
TENSORS_FILE = "reference.safetensors"


class Document(BaseModel, extra="forbid"):
    """The content of SETTINGS_FILE."""

    format: Literal[4] = FORMAT
    sha256: str  # of TENSORS_FILE
    settings: Settings


def save_reference(reference: Reference, folder: Path) -> None:
    """Writes `folder`, whole or not at all; an existing one is replaced. Raises UserError where it cannot be written."""
    try:
        with new_folder(folder) as new:
            save_file(_tensors(reference), new / TENSORS_FILE)
            document = Document(sha256=sha256(new / TENSORS_FILE), settings=reference.settings)
            (new / SETTINGS_FILE).write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None


def load_reference(folder: Path) -> Reference:
    """What `save_reference` wrote, mapped from the file. Raises UserError where a file is missing or damaged."""
    settings = _checked_settings(folder)
    tensors = load_file(folder / TENSORS_FILE)
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
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _classifier(tensors: dict[str, Tensor]) -> Classifier | None:
    prefix = "classifier/"
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    if not weights:
        return None
    classifier = empty_classifier(weights["convolutions.0.weight"].shape[1], len(weights["output.bias"]))
    classifier.load_state_dict(weights)
    return classifier.eval().requires_grad_(False)


def _checked_settings(folder: Path) -> Settings:
    """The settings in `folder`, whose tensors are those that were written with them."""
    path, advice = folder / SETTINGS_FILE, "remove the folder and it will be made again"
    try:
        document = Document.model_validate_json(path.read_bytes())
        actual = sha256(folder / TENSORS_FILE)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}; {advice}") from None
    except ValidationError:
        raise UserError(f"{path}: damaged, or of another version; {advice}") from None
    if actual != document.sha256:
        raise UserError(f"{folder / TENSORS_FILE}: damaged (its sha256 is not the one in {SETTINGS_FILE}); {advice}")
    return document.settings
