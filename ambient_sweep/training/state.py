"""The state that resuming needs, the states of a run on disk, and checkpoints of models for sampling."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ambient_sweep.config import Config, build_config
from ambient_sweep.config.files import absolute_paths
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.errors import UserError
from ambient_sweep.latent.captions import embeddings_key
from ambient_sweep.models import Shape, base_of, build_model
from ambient_sweep.storage import remove, remove_leftovers
from ambient_sweep.training.averages import Averages, part
from ambient_sweep.training.compute import prepare_network
from ambient_sweep.training.distillation import Distillation, adam
from ambient_sweep.training.files import DamagedFile, read_tensors, write_tensors
from ambient_sweep.training.group import SINGLE, Group

Tensors = dict[str, torch.Tensor]
SUMS = 6  # numbers that a record is made from, see step.py
KEPT = 2  # states of a run: if the newest is damaged, the one before it is used
BEGIN_AGAIN = "and the run begins again"
OTHER = {  # by a note of a checkpoint: what is wrong where it is not the same now
    "base": "model.base: {base} is not the base that {folder} was trained on; give that as model.base=FOLDER",
    "vae": "model.base: {base} has another VAE than {folder} was trained for; give that base as model.base=FOLDER",
    "embeddings": "data.path: {data} has other captions than {folder} was trained with; give its store as data.path=STORE",
}


@dataclass
class TrainState:
    """The live weights, their averages, the optimizer, the position in images, and the sums of the record under way.

    Once a run is distilled, these are the generator's, and `distillation` holds what else there is.

    There is no generator state: all randomness is a function of the seed and the position.
    """

    config: Config
    shape: Shape
    classes: int
    group: Group
    denoiser: Denoiser
    averages: Averages
    optimizer: torch.optim.AdamW
    sums: torch.Tensor  # since the last record
    images: int = 0
    distillation: Distillation | None = None

    @classmethod
    def create(
        cls, config: Config, shape: Shape, device: str = "cpu", classes: int = 0, group: Group = SINGLE
    ) -> "TrainState":
        """The state before the first step; the same on every worker."""
        denoiser = build_model(config.model, shape, config.seed, classes, config.data.path).to(device)
        prepare_network(denoiser, config.compute)
        o = config.optimizer
        optimizer = torch.optim.AdamW(
            denoiser.parameters(), lr=o.lr, betas=(0.9, o.beta2), weight_decay=o.weight_decay, fused=True
        )
        averages = Averages.create(config.ema, denoiser)
        sums = torch.zeros(SUMS, dtype=torch.float64, device=device)
        return cls(config, shape, classes, group, denoiser, averages, optimizer, sums)

    @property
    def device(self) -> torch.device:
        return self.sums.device

    def distill(self) -> Distillation:
        """What a distilled run has besides its generator; at the first call all begins as the averaged weights.

        The average is the teacher's already; it begins anew, as its share of the images since then says.
        """
        if self.distillation is None:
            weights = self.averages.main()
            self.distillation = Distillation.create(self.config, self.with_weights(weights), self.with_weights(weights))
            with torch.no_grad():
                _load(self.denoiser, weights)
            self.optimizer = adam(self.config, self.denoiser)
        return self.distillation

    # -- weights to evaluate ----------------------------------------------------------------------------------------

    @property
    def average(self) -> Denoiser:
        """A denoiser of its own with the averaged weights, on every worker."""
        return self.with_weights(self.averages.main())

    def with_weights(self, weights: Mapping[str, torch.Tensor]) -> Denoiser:
        """A new denoiser in evaluation mode with `weights` by parameter name."""
        c = self.config
        denoiser = build_model(c.model, self.shape, c.seed, self.classes, c.data.path).to(self.device)
        with torch.no_grad():
            _load(denoiser, weights)
        return denoiser.requires_grad_(False).eval()

    # -- files ------------------------------------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """Everything but numbers: the live tensors themselves, which the next step changes."""
        named = {f"model.{name}": parameter.detach() for name, parameter in self.denoiser.named_parameters()}
        named |= {f"average.{name}": tensor for name, tensor in self.averages.tensors().items()}
        named |= _moments(self.optimizer, self.denoiser, "optimizer")
        if (d := self.distillation) is not None:
            for prefix, denoiser in (("teacher", d.teacher), ("fake", d.fake)):
                named |= {f"{prefix}.{name}": parameter.detach() for name, parameter in denoiser.named_parameters()}
            named |= _moments(d.optimizer, d.fake, "fake_optimizer")
        return named | {"sums": self.sums}

    def save(self, folder: Path) -> None:
        """Writes state.safetensors and state.json to `folder`, all or nothing; only rank 0 does, which holds all sums.

        Raises OSError that names the folder where it cannot be written.
        """
        if self.group.rank == 0:
            meta = {"images": self.images, "config": self.config.model_dump(mode="json")}
            write_tensors(folder, "state", self.tensors(), meta)

    @torch.no_grad()
    def restore(self, folder: Path, tensors: Tensors, meta: dict[str, Any]) -> None:
        """Loads what `read_state(folder)` returned. Raises UserError if another config saved it."""
        if trained_config(meta["config"]) != trained_config(self.config.model_dump(mode="json")):
            raise UserError(f"{folder}: saved by another config; use that config or another folder")
        self.averages.load(part(tensors, "average"))
        if self.config.is_distilled(meta["images"]):
            d = self.distill()
            _load(d.teacher, part(tensors, "teacher"))
            _load(d.fake, part(tensors, "fake"))
            _load_moments(d.optimizer, d.fake, part(tensors, "fake_optimizer"))
        _load(self.denoiser, part(tensors, "model"))
        _load_moments(self.optimizer, self.denoiser, part(tensors, "optimizer"))
        self.sums.zero_()
        if self.group.rank == 0:
            self.sums[: len(tensors["sums"])] = tensors["sums"]  # one saved before distillation existed is shorter
        self.images = meta["images"]


def _moments(optimizer: torch.optim.Optimizer, denoiser: Denoiser, prefix: str) -> Tensors:
    """An optimizer's tensors by slot and parameter."""
    return {
        f"{prefix}.{slot}.{name}": value
        for name, parameter in denoiser.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def _load(denoiser: Denoiser, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in denoiser.named_parameters():
        parameter.copy_(tensors[name])


def _load_moments(optimizer: torch.optim.Optimizer, denoiser: Denoiser, tensors: Tensors) -> None:
    for name, parameter in denoiser.named_parameters():
        slots = {slot: tensors.get(f"{slot}.{name}") for slot in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {
            slot: value.to(parameter.device) if slot == "step" else torch.empty_like(parameter).copy_(value)
            for slot, value in slots.items()
            if value is not None
        }


def read_state(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """The files of a state, on the CPU. Raises DamagedFile that names a damaged one, UserError for another format."""
    return read_tensors(folder, "state", "cpu")


def trained_config(config: dict[str, Any]) -> dict[str, Any]:
    """The sections of a config that decide what is trained; how and where it is computed may change within a run.

    So may where a base lies; whether it is the same is checked against the data (`check_latents`).
    """
    others = {"compute", "resources"} | (
        {"distillation"} if config["objective"]["kind"] != "ambient_distilled" else set()
    )
    kept = {section: values for section, values in config.items() if section not in others}
    return kept | {"model": {key: value for key, value in kept["model"].items() if key != "base"}}


def state_name(images: int) -> str:
    return f"images-{images:09d}"


def positions_in(place: Path) -> list[int]:
    """The image counts of the states, or of the snapshots, in `place`, rising."""
    digits = [path.name.removeprefix("images-") for path in place.glob("images-*")]
    return sorted(int(each) for each in digits if each.isdigit())


def saved_states(place: Path) -> list[Path]:
    """The folders of states in `place`, the newest first."""
    return [place / state_name(images) for images in reversed(positions_in(place))]


def save_newest(place: Path, state: TrainState) -> None:
    """Saves the state in `place` and keeps it and the newest one before it; every worker calls it, rank 0 writes.

    Removes later ones, which are damaged. Raises OSError that names what cannot be written.
    """
    mine = place / state_name(state.images)
    state.save(mine)
    if state.group.rank == 0:
        states = saved_states(place)
        kept = states[states.index(mine) :][:KEPT]
        for old in states:
            if old not in kept:
                remove(old)


def restore_newest(place: Path, state: TrainState, echo: Callable[[str], None]) -> str | None:
    """Restores `state` from the newest sound state in `place`, the same on every worker; returns its name, or None.

    Echoes one line for a damaged state and uses the one before it. Raises UserError if all are damaged, or if one belongs
    to another config or format.
    """
    choice = state.group.broadcast(_choose(place, echo) if state.group.rank == 0 else None)
    if choice is None:
        return None
    if isinstance(choice, str):
        raise UserError(choice)
    state.restore(choice, *read_state(choice))
    return choice.name


def _choose(place: Path, echo: Callable[[str], None]) -> Path | str | None:
    """The newest sound state, None if there is no state, or the reason why none can be used."""
    remove_leftovers(place)
    states, damages = saved_states(place), []
    for folder in states:
        try:
            read_state(folder)
        except DamagedFile as error:
            without_path = str(error).removeprefix(str(folder)).partition(": ")[2]
            damages.append(f"state {folder.name}: {without_path}")
            continue
        except UserError as error:
            return f"{error}; remove {place} {BEGIN_AGAIN}"
        for damage in damages:
            echo(f"{damage}; going on from {folder.name}")
        return folder
    if damages:
        return f"{place}: no state can be read ({'; '.join(damages)}); restore one, or remove {place} {BEGIN_AGAIN}"
    return None


# -- models -----------------------------------------------------------------------------------------------------------


def save_model(
    folder: Path, weights: Tensors, config: Config, images: int, shape: Shape, extra: dict[str, Any]
) -> None:
    """Writes a model's weights for sampling and evaluation: model.safetensors and checkpoint.json, all or nothing.

    `extra` holds data_fingerprint and, for a conditional model, classes.
    """
    meta = {"images": images, "shape": list(shape), "config": config.model_dump(mode="json")}
    meta |= latent_notes(config) if config.model.kind == "lora" else {}
    write_tensors(folder, "model", weights, extra | meta, meta_name="checkpoint")


def latent_notes(config: Config) -> dict[str, str]:
    """Hashes of what a LoRA goes with: its base, the VAE, the embedded captions. Raises UserError where one is not there."""
    base = base_of(config.model)
    return {"base": base.key, "vae": base.vae_key, "embeddings": embeddings_key(Path(str(config.data.path)))}


def load_model(
    folder: Path, device: str = "cpu", moved: Mapping[str, Any] | None = None
) -> tuple[Denoiser, Config, dict[str, Any]]:
    """The denoiser of a checkpoint folder, its config and its notes. moved: where model.base and data.path are now.

    Raises UserError if it is missing or damaged, or was trained on another base, for another VAE or with other captions.
    """
    if not (folder / "checkpoint.json").exists():
        raise UserError(f"{folder}: holds no checkpoint; give a folder runs/NAME/trials/ID/checkpoints/images-N")
    tensors, meta = read_tensors(folder, "model", device, meta_name="checkpoint")
    config = build_config(meta["config"], absolute_paths(moved or {}), where=str(folder / "checkpoint.json"))
    if config.model.kind == "lora":
        if not Path(str(config.model.base)).exists():
            raise UserError(f"model.base: {config.model.base} is gone; say where the base is now, model.base=FOLDER")
        for name, now in latent_notes(config).items():
            if meta.get(name) != now:
                raise UserError(OTHER[name].format(base=config.model.base, data=config.data.path, folder=folder))
    channels, height, width = meta["shape"]
    shape, classes = (channels, height, width), meta.get("classes", 0)
    denoiser = build_model(config.model, shape, config.seed, classes, config.data.path).to(device)
    try:
        denoiser.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(f"{folder}: the weights do not fit the config in checkpoint.json") from None
    return denoiser.requires_grad_(False).eval(), config, meta
