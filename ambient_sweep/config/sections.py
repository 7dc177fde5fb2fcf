"""Every knob with its range, default and line of help."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ambient_sweep.config.checks import contradictions
from ambient_sweep.config.values import UNWRITABLE, did_you_mean, read_number, takes_numbers

Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Length = Annotated[float, Field(ge=0.005, le=0.28)]
Distance = Literal[
    "fd_classifier", "fd_lite0@32", "fd_lite0@64", "fd_lite0@224", "fd_pixels", "fid",
    "fd_dinov2_small", "fd_dinov2_base", "fd_dinov2_large", "fd_sscd", "fd_file",
]  # fmt: skip
Extra = Literal["kid", "precision", "recall", "density", "coverage"]
Memorization = Literal[
    "mem_excess", "mem_local_excess", "mem_ratio", "mem_excess_flips", "mem_ratio_flips", "sim_excess"
]
Endpoint = Literal["zero", "observed", "distilled"]


class UnknownKey(ValueError):
    """A key that a section does not have."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        known = cls.model_fields
        for key in values if isinstance(values, Mapping) else ():
            if key not in known:
                near = did_you_mean(key, known, f"it has {', '.join(known)}")
                raise UnknownKey(f"unknown key {key!r}; {near}")
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _read_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Files and the command line give text; its key says whether it is a number."""
        texts = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(text, str) and UNWRITABLE.search(text) for text in texts):
            raise ValueError("expected text in UTF-8, without control characters")
        kind = cls.model_fields[str(info.field_name)].annotation
        if not isinstance(value, str | bool | list | tuple) or not takes_numbers(kind):
            return value
        if isinstance(value, bool):  # 1 or 0 to pydantic
            raise ValueError("expected a number")
        return list(map(read_number, value)) if isinstance(value, list | tuple) else read_number(value)


class SplitConfig(Section):
    train: str | None = Field(None, description="the publisher's training images: a folder, file or pattern of names")
    heldout: str | None = Field(None, description="the publisher's held-out images, named in the same way")


class DataConfig(Section):
    source: Literal["digits", "folder", "zip", "parquet", "array", "cifar10", "store"] = Field(
        "digits", description="kind of image source: docs/data.md"
    )
    path: str | None = Field(None, description="folder, zip, Parquet file or folder, npy/npz, CIFAR-10 folder, store")
    image_size: int = Field(8, ge=4, le=1024, description="side in pixels; images are resized by area")
    channels: Literal[1, 3, 4, 16] = Field(1, description="1: grey, 3: RGB; 4 and 16: latents, in a store")
    image_column: str = Field("image", description="column (Parquet) or key (npz) of the images")
    label_column: str | None = Field(
        "auto", description="column or key of the class numbers; auto: a column label or class folders, if present"
    )
    sigma_column: str | None = Field(None, description="column or key of a noise level per image")
    range: tuple[float, float] | None = Field(None, description="the files' values for black and white, as [0, 4095]")
    train_size: int | None = Field(None, ge=2, description="training images; by default those that are not held out")
    heldout_size: int | None = Field(None, ge=2, description="held-out images; by default a tenth, more of small sets")
    split_seed: Seed = Field(0, description="seed of the split into training and held-out images")
    split: SplitConfig = SplitConfig()
    group_column: str | None = Field(None, description="column or key of groups that the split keeps whole")
    group_pattern: str | None = Field(None, description="regular expression on names, whose first group is the group")
    on_corrupt: Literal["refuse", "skip"] = Field("refuse", description="what to do about an unreadable file")
    flip: bool = Field(False, description="mirror half of the training images (after the noise, exact)")


class ObservedConfig(Section):
    sigma: float = Field(0.3, ge=0, le=100, description="noise level of the observed images, data in [-1, 1]")
    base_sigma: float = Field(0.0, ge=0, le=100, description="noise level from which all others are made")
    clean_fraction: Fraction = Field(0.0, description="share of the training images observed without noise")
    seed: Seed = Field(0, description="seed of the one fixed noise draw per image")


class ObjectiveConfig(Section):
    kind: Literal["ambient_consistency", "ambient", "ambient_distilled", "ambient_high_clean_low", "denoising"] = Field(
        "ambient_consistency",
        description="training objective: docs/math.md; ambient_distilled trains a one-step generator",
    )


class NoiseConfig(Section):
    law: Literal["lognormal", "timesteps"] = Field(
        "lognormal", description="timesteps: uniform over the noise levels of model.base, in place of mean and std"
    )
    mean: float = Field(-1.2, ge=-10, le=10, description="mean of log sigma in training (EDM's P_mean)")
    std: float = Field(1.2, gt=0, le=10, description="standard deviation of log sigma in training (EDM's P_std)")


class ConsistencyConfig(Section):
    weight: float = Field(1.0, ge=0, le=1000, description="weight of the consistency loss")
    start: Fraction = Field(0.5, description="fraction of training before which the weight is 0")
    ramp: Literal["step", "linear", "cosine"] = Field("step", description="how the weight rises after start")
    ramp_fraction: Fraction = Field(0.1, description="fraction of training over which it rises")
    batch_share: float = Field(0.15, gt=0, le=1, description="share of the batch that gets the consistency loss")
    chain_steps: int = Field(2, ge=1, le=64, description="reverse steps from the observed level to the last level")
    lowest: float = Field(0.02, gt=0, lt=1, description="lowest last level, as a share of the observed level")
    draws: int = Field(2, ge=2, le=16, description="independent chains per image")


class DistillationConfig(Section):
    start: float = Field(0.5, gt=0, lt=1, description="fraction of training that the teacher gets; then it is frozen")
    sigma: float = Field(2.5, gt=0, le=100, description="noise level of the generator's input")
    alpha: float = Field(1.2, ge=0, le=2, description="weight of the squared difference of teacher and fake denoiser")
    lr: float = Field(5e-4, gt=0, le=1, description="learning rate of generator and fake denoiser, without a schedule")
    ratio: int = Field(1, ge=1, le=16, description="steps of the fake denoiser per step of the generator")


class ModelConfig(Section):
    preset: Literal[
        "custom", "unet-8", "unet-32", "unet-32-small", "unet-64", "unet-64-small", "unet-256",
        "dit-8", "dit-32", "dit-64", "dit-256",
    ] = Field("custom", description="sets all model keys not given beside it: docs/networks.md")  # fmt: skip
    kind: Literal["mlp", "unet", "dit", "lora"] = Field(
        "unet", description="residual MLP, U-Net, diffusion transformer, or LoRA on a latent base"
    )
    width: int = Field(64, ge=8, le=4096, multiple_of=8, description="hidden width (mlp, dit), base channels (unet)")
    blocks: int = Field(2, ge=1, le=64, description="blocks (mlp, dit), residual blocks per resolution (unet)")
    levels: int = Field(2, ge=1, le=6, description="resolutions of the U-Net")
    multipliers: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        (), description="width per resolution (unet) in units of width; 1, 2, 4, 4, ... by default"
    )
    attention: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (), description="resolutions in pixels with self-attention (unet), besides the middle"
    )
    head_width: int = Field(64, ge=8, le=256, multiple_of=8, description="channels per attention head")
    patch: int = Field(2, ge=1, le=64, description="side of a patch in pixels (dit)")
    base: str | None = Field(
        None, description="diffusers folder of SDXL or SD3 that stays frozen (lora): docs/latent.md"
    )
    rank: int = Field(4, ge=1, le=1024, description="rank of each adapter, and its alpha (lora)")
    targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="layers with an adapter, by their last names (lora)",
    )
    conditional: bool = Field(False, description="give the network the class labels of the images")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden in training, for guidance")
    sigma_data: float = Field(0.5, ge=0.001, le=10, description="standard deviation of the clean data (EDM)")


class OptimizerConfig(Section):
    lr: float = Field(1e-3, ge=0, le=1, description="peak learning rate of AdamW; 0: weights stay as they are")
    schedule: Literal["cosine", "constant", "wsd"] = Field("cosine", description="wsd: constant, then a decay to 0")
    warmup: Fraction = Field(0.05, description="fraction of training over which the learning rate rises from 0")
    decay: Fraction = Field(0.2, description="fraction of training, at its end, over which schedule=wsd decays")
    weight_decay: float = Field(0.0, ge=0, le=10, description="decoupled weight decay")
    beta2: float = Field(0.99, gt=0, lt=1, description="AdamW's second moment decay")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")


class EmaConfig(Section):
    kind: Literal["halflife", "power"] = Field("halflife", description="exponential average, or EDM2's power function")
    halflife: int = Field(10_000, ge=0, description="half-life of the weights' moving average, in images; 0: off")
    rampup: float = Field(0.1, gt=0, le=1, description="half-life is at most this share of the images seen so far")
    length: Length = Field(0.1, description="length (EDM2's sigma_rel) evaluated, for kind=power")
    tracked: tuple[Length, Length] = Field((0.1, 0.2), description="the two lengths tracked, for kind=power")
    snapshots: int = Field(16, ge=1, le=1000, description="snapshots of the tracked averages, evenly over the run")


class TrainingConfig(Section):
    images: int = Field(
        200_000, ge=1, le=10**12, description="training length in images; the horizon of every schedule"
    )
    batch_size: int = Field(64, ge=1, le=65536, description="images per step over all workers")
    stop: float = Field(1.0, gt=0, le=1, description="fraction at which training ends; schedules keep their horizon")
    checkpoints: int = Field(8, ge=1, le=1000, description="states saved for resuming, evenly over the run")
    records: int = Field(100, ge=1, le=100_000, description="training records logged, evenly over the run")


class ComputeConfig(Section):
    """How steps are computed; each keeps the numbers within the tolerance in docs/training.md."""

    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: autocast of the network")
    compile: bool = Field(False, description="torch.compile the network")
    channels_last: bool = Field(False, description="memory layout of convolutions")
    accumulate: int = Field(1, ge=1, le=4096, description="parts a worker's batch is computed in, one after another")
    activation_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    prefetch: int = Field(2, ge=0, le=64, description="batches prepared ahead by a thread of their own")


class SamplingConfig(Section):
    steps: int = Field(18, ge=2, le=1000, description="Heun steps from sigma_max to 0, each two passes of the network")
    sigma_min: float = Field(0.002, gt=0, le=1, description="last nonzero noise level")
    sigma_max: float = Field(80.0, gt=0, le=10_000, description="first noise level")
    rho: float = Field(7.0, ge=1, le=100, description="spacing of the noise levels (EDM)")
    guidance: float = Field(1.0, ge=1, le=20, description="scale of classifier-free guidance, for conditional models")
    mode: Literal["exact", "fast"] = Field("exact", description="exact: float32, the same for any batch size")
    batch_size: int = Field(256, ge=1, le=65536, description="most images sampled at once, for mode=fast")
    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: autocast of the network, for mode=fast")
    compile: bool = Field(False, description="torch.compile the network for sampling, for mode=fast")


class EvaluationConfig(Section):
    lengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.25, 0.5, 0.75, 1.0), min_length=1, description="fractions of training with a full evaluation"
    )
    samples: int = Field(1000, ge=8, le=1_000_000, description="images generated per evaluation")
    batch_size: int = Field(500, ge=1, le=65536, description="images per batch in encoding")
    seed: Seed = Field(0, description="seed of the samples")
    endpoints: tuple[Literal["zero", "observed"], ...] = Field(
        ("zero", "observed"), min_length=1, description="sampling down to 0, and stopped at the observed level"
    )
    distances: tuple[Distance, ...] = Field(("fd_pixels",), min_length=1, description="Frechet distances to measure")
    fidelity: Distance = Field("fd_pixels", description="the distance that is the first objective")
    extras: tuple[Extra, ...] = Field(
        ("kid", "precision", "recall", "density", "coverage"), description="further measures, in fidelity's features"
    )
    similarity: Distance | None = Field(None, description="distance whose encoder measures similarity, for sim_excess")
    memorization: Memorization = Field("mem_excess", description="the second objective")
    quantile: float = Field(0.01, ge=1e-6, lt=0.5, description="held-out quantile below which mem_excess counts")
    weights_folder: str | None = Field(None, description="folder of encoder weights; the user's cache by default")
    encoder_file: str | None = Field(None, description="your own encoder for fd_file, a TorchScript file")
    encoder_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="its SHA-256, in hex")
    encoder_size: int = Field(224, ge=8, le=2048, description="side in pixels of the images it takes")
    path: str | None = Field(None, description="store of the clean images, if data.path holds noisy ones")


class ResourcesConfig(Section):
    workers: int = Field(1, ge=1, le=1024, description="workers per trial")
    cpus: float = Field(1.0, ge=1e-4, le=1024, description="CPU cores per worker")
    gpus: float = Field(0.0, ge=0, le=8, description="GPUs per worker")


class Config(Section):
    """One training run with its evaluation; frozen. Equal configs train equal models."""

    seed: Seed = Field(0, description="seed of initial weights and of all draws in training")
    data: DataConfig = DataConfig()
    observed: ObservedConfig = ObservedConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    noise: NoiseConfig = NoiseConfig()
    consistency: ConsistencyConfig = ConsistencyConfig()
    distillation: DistillationConfig = DistillationConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    training: TrainingConfig = TrainingConfig()
    compute: ComputeConfig = ComputeConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _no_contradictions(self) -> "Config":
        problem = next(contradictions(self), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def steps(self) -> int:
        return math.ceil(self.training.images / self.training.batch_size)

    def images_at(self, fraction: float) -> int:
        """Images after the step that ends nearest to `fraction` of the run; at least one step."""
        return max(1, round(fraction * self.steps)) * self.training.batch_size

    @property
    def length(self) -> int:
        """Images after which training stops."""
        return self.images_at(self.training.stop)

    def is_distilled(self, images: int) -> bool:
        """Whether the model after so many images is a one-step generator: before, it is the teacher on its way."""
        return self.objective.kind == "ambient_distilled" and images > self.images_at(self.distillation.start)

    def endpoints(self, images: int) -> tuple[Endpoint, ...]:
        """The endpoints of sampling that differ after so many images: at observed.sigma = 0 there is only one."""
        if self.is_distilled(images):
            return ("distilled",)
        return self.evaluation.endpoints if self.observed.sigma > 0 else ("zero",)

    def main_endpoint(self, images: int) -> Endpoint:
        """The endpoint the objective is made for: `ambient` and a teacher train nothing below the observed level."""
        wanted: Endpoint = "observed" if self.objective.kind in ("ambient", "ambient_distilled") else "zero"
        endpoints = self.endpoints(images)
        return wanted if wanted in endpoints else endpoints[0]
