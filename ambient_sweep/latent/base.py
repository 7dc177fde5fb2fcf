"""A base: the pretrained latent diffusion model that LoRA fine-tunes, as the folder that diffusers saves.

Reads JSON and the headers of safetensors; diffusers, which takes seconds to import, is not needed.
"""

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ambient_sweep.errors import UserError
from ambient_sweep.storage import digest, sha256

Family = Literal["sdxl", "sd3"]
Prediction = Literal["noise", "v", "flow"]

Json = dict[str, Any]

PIPELINES: dict[Family, str] = {"sdxl": "StableDiffusionXLPipeline", "sd3": "StableDiffusion3Pipeline"}
NETWORKS: dict[Family, str] = {"sdxl": "unet", "sd3": "transformer"}  # folders
TITLES: dict[Family, str] = {"sdxl": "Stable Diffusion XL", "sd3": "Stable Diffusion 3"}
PREDICTIONS: dict[str, Prediction] = {"epsilon": "noise", "v_prediction": "v"}
FEW_STEPS = re.compile(
    r"(?<![^\W_])(turbo|lightning|lcm|hyper[-_. ]?sd(xl)?|distilled|schnell)(?![^\W_])", re.IGNORECASE
)  # as words


@dataclass(frozen=True)
class Base:
    """What training needs to know of a base. Latents are the VAE's, `scale` (z - `shift`)."""

    folder: Path
    family: Family
    scaling: Prediction  # what the network predicts: noise, v or flow velocity
    sigmas: tuple[float, ...]  # the noise levels s / alpha of its timesteps, rising
    channels: int  # of a latent
    factor: int  # pixels per latent pixel, along a side
    divisor: int  # of a latent's sides
    scale: float
    shift: float

    @property
    def network(self) -> Path:
        """The folder of the denoising network."""
        return self.folder / NETWORKS[self.family]

    @property
    def pipeline(self) -> str:
        """The name of its class in diffusers."""
        return PIPELINES[self.family]

    @property
    def title(self) -> str:
        return TITLES[self.family]

    @property
    def vae(self) -> Path:
        return self.folder / "vae"

    @cached_property
    def key(self) -> str:
        """A hash, 16 hex digits, of the denoising network and of what it predicts at which levels; reads all weights."""
        return digest([_key(self.network), self.scaling, self.sigmas])[:16]

    @cached_property
    def vae_key(self) -> str:
        """The same of the VAE."""
        return _key(self.vae)

    @property
    def highest(self) -> float:
        """The highest noise level, rounded down, for people."""
        return math.floor(100 * self.sigmas[-1]) / 100

    @property
    def steps(self) -> int:
        """The timesteps that training has. Those of a flow are 1 to `steps`, of which the last is infinite noise."""
        return len(self.sigmas) + (self.scaling == "flow")

    def timestep(self, sigma: float) -> float:
        """The timestep of a noise level, for people."""
        if self.scaling == "flow":
            return self.steps * sigma / (1 + sigma)
        return float(np.interp(np.log(max(sigma, 1e-10)), np.log(self.sigmas), np.arange(len(self.sigmas))))

    def level(self, thousandth: int) -> float:
        """The noise level of a timestep, in thousandths of them all."""
        if self.scaling == "flow":
            return thousandth / (1000 - thousandth)
        return self.sigmas[len(self.sigmas) * thousandth // 1000]


def open_base(folder: Path) -> Base:
    """The base that diffusers saved in `folder`.

    Raises UserError for what is no such folder, is damaged, holds pickled weights or adapters, is of an unknown family, or
    does not estimate E[x_0 | x_t] at finite noise levels.
    """
    index = read_json(folder, "model_index.json")
    kind = index.get("_class_name")
    family = next((family for family, name in PIPELINES.items() if name == kind), None)
    if family is None:
        raise UserError(f"{folder}: is a {kind}; a base is a {' or '.join(PIPELINES.values())}")
    network, vae, scheduler = folder / NETWORKS[family], folder / "vae", folder / "scheduler"
    config, latents = read_json(network, "config.json"), read_json(vae, "config.json")
    process = read_json(scheduler, "scheduler_config.json")
    for place in (network, vae):
        check_weights(place)
    _check_distilled(folder, index, config, process)
    try:
        _check_numbers(folder, family, config, latents, process)
        scaling: Prediction = "flow" if family == "sd3" else _prediction(scheduler, process)
        sigmas = _flow_sigmas(process) if family == "sd3" else _sigmas(scheduler, process)
        if len(sigmas) < 2 or not np.isfinite(sigmas).all() or not (np.diff(sigmas) > 0).all():
            raise UserError(f"{scheduler}: its noise levels are not a rising table; download the base again")
        divisor = config["patch_size"] if family == "sd3" else 2 ** (len(config["block_out_channels"]) - 1)
        if latents.get("latents_mean") is not None or config["in_channels"] != latents["latent_channels"]:
            raise UserError(f"{vae}: its latents are not those that {network.name} takes, up to one scale and shift")
        return Base(
            folder, family, scaling, tuple(sigmas.tolist()), latents["latent_channels"],
            2 ** (len(latents["block_out_channels"]) - 1), divisor, latents["scaling_factor"],
            latents.get("shift_factor") or 0.0,
        )  # fmt: skip
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{folder}: its configs lack a value or hold a wrong one ({error!r}); save it again") from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model in a base, parts in order, in full precision where there are both.

    Raises UserError where there are none.
    """
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    for variant in ("", ".fp16"):
        pattern = re.compile(re.escape(stem + variant) + r"(-\d+-of-\d+)?\.safetensors")
        if found := sorted(file for file in folder.glob("*.safetensors") if pattern.fullmatch(file.name)):
            return found
    pickled = next(iter([*folder.glob("*.bin"), *folder.glob("*.ckpt")]), None)
    if pickled is not None:
        raise UserError(f"{pickled}: pickled weights are not read; save the base by save_pretrained as safetensors")
    raise UserError(f"{folder}: holds no {stem}.safetensors; download or save the whole base again")


def variant(folder: Path) -> str | None:
    """diffusers' name of the precision in which a model in a base is stored; None is the full one."""
    return "fp16" if "model.fp16" in weight_files(folder)[0].name else None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object in a base."""
    file = folder / name
    if name == "model_index.json" and not file.is_file():
        if folder.is_file():
            cure = "load it by diffusers' from_single_file, and save it by save_pretrained"
            raise UserError(f"{folder}: is a single file, not a diffusers folder; {cure}")
        what = "holds no model_index.json" if folder.is_dir() else "not a folder"
        cure = "give the folder of a whole pipeline; of a model on the hub, the one that `hf download ID --local-dir` fills"
        raise UserError(f"{folder}: {what}; {cure}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error}); save or download the base again") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: not a JSON object; save or download the base again")
    return values


def check_weights(folder: Path) -> None:
    """Raises UserError for damaged weights and for adapters among them."""
    for file in weight_files(folder):
        try:
            with file.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                if not 0 < size < file.stat().st_size:
                    raise ValueError("the header is longer than the file")
                header = json.loads(stream.read(size))
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            if file.stat().st_size != 8 + size + end:
                raise ValueError("the file is cut off")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: damaged ({error}); download the base again") from None
        if any(".base_layer." in name or "lora_" in name for name in header):
            cure = "call unload_lora_weights() (or fuse_lora() first) before save_pretrained"
            raise UserError(f"{file}: was saved with adapters inside; {cure}")


def _check_distilled(folder: Path, index: Json, network: Json, scheduler: Json) -> None:
    """Raises UserError for bases whose output is not E[x_0 | x_t]: distilled for few steps, or guided within.

    By settings and names: of the folder, of what it links to, of the repository in the hub's cache, and in configs.
    """
    target = folder.resolve()
    names = [folder.absolute().name, target.name, *(part for part in target.parts if part.startswith("models--"))]
    names += [str(each.get("_name_or_path", "")) for each in (index, network, scheduler)]
    word = next((match[0] for match in map(FEW_STEPS.search, names) if match), None)
    reasons = {
        "time_cond_proj_dim": network.get("time_cond_proj_dim") is not None,
        "guidance_embeds": bool(network.get("guidance_embeds")),
        str(scheduler.get("_class_name")): str(scheduler.get("_class_name")).startswith(("LCM", "TCD")),
        f"its name says {word}": word is not None,
    }
    if sign := next((name for name, true in reasons.items() if true), None):
        what = "is distilled for few steps or has guidance within"
        raise UserError(
            f"{folder}: {what} ({sign}), so it does not estimate E[x_0 | x_t]; use the model it was made from"
        )


def _check_numbers(folder: Path, family: Family, network: Json, vae: Json, scheduler: Json) -> None:
    """Raises UserError, which names it, for a number of the configs that is none or out of range."""
    whole, real = (int,), (int, float)
    blocks = [len(each["block_out_channels"]) for each in (vae, network) if each is vae or family == "sdxl"]
    for name, value, kinds, least, most in (
        ("num_train_timesteps", scheduler.get("num_train_timesteps", 1000), whole, 2, 10**5),
        ("shift", scheduler.get("shift", 1.0), real, 1e-3, 1e3),
        ("latent_channels", vae["latent_channels"], whole, 1, 10**3),
        ("scaling_factor", vae["scaling_factor"], real, 1e-3, 1e3),
        ("shift_factor", vae.get("shift_factor") or 0, real, -1e3, 1e3),
        ("patch_size", network["patch_size"] if family == "sd3" else 1, whole, 1, 10**3),
        *(("block_out_channels", each, whole, 1, 10) for each in blocks),
    ):
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            what = f"{name}={value!r}, which is not a {'whole ' * (kinds is whole)}number from {least:g} to {most:g}"
            raise UserError(f"{folder}: its configs lack a value or hold a wrong one ({what}); save it again")


def _prediction(folder: Path, scheduler: dict[str, Any]) -> Prediction:
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS or str(scheduler["_class_name"]).startswith("EDM"):
        raise UserError(f"{folder}: prediction_type={kind} is not supported; bases predict {' or '.join(PREDICTIONS)}")
    return PREDICTIONS[kind]


def _sigmas(folder: Path, scheduler: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(1 / alpha_bar - 1)^(1/2) of all timesteps of a variance preserving base."""
    kind, count = scheduler["beta_schedule"], scheduler.get("num_train_timesteps", 1000)
    start, end = scheduler["beta_start"], scheduler["beta_end"]
    if scheduler.get("trained_betas") is not None:
        betas = np.array(scheduler["trained_betas"], dtype=np.float64)
    elif kind == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, count) ** 2
    elif kind == "linear":
        betas = np.linspace(start, end, count)
    else:
        raise UserError(f"{folder}: beta_schedule={kind} is not supported; scaled_linear and linear are")
    if not np.all((betas > 0) & (betas <= 1)):
        what = f"its betas ({betas[0]:g} to {betas[-1]:g}) do not lie in (0, 1)"
        raise UserError(f"{folder}: {what}; correct its config or download the base again")
    alpha_bar = np.cumprod(1 - betas)
    if scheduler.get("rescale_betas_zero_snr") or alpha_bar[-1] <= 0:
        cure = "use a base without rescale_betas_zero_snr"
        raise UserError(f"{folder}: its last noise level is infinite (zero terminal SNR); {cure}")
    return np.asarray(np.sqrt(1 / alpha_bar - 1))


def _flow_sigmas(scheduler: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """t / (1 - t) of all timesteps of a flow but t = 1."""
    count = scheduler.get("num_train_timesteps", 1000)
    shift = 1.0 if scheduler.get("use_dynamic_shifting") else scheduler.get("shift", 1.0)
    t = np.arange(1, count) / count
    return np.asarray(shift * t / (1 - t))


def _key(folder: Path) -> str:
    config = {key: value for key, value in read_json(folder, "config.json").items() if not key.startswith("_")}
    return digest([config, *map(sha256, weight_files(folder))])[:16]
