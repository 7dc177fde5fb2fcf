"""The config of one training run: every knob once, with its range, its default and a line of help.

One dotted key per knob (`observed.sigma`), and one path for file, command line and sampler:
`defaults < base in the YAML < key=value < the trial's values`.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ambient_sweep.errors import UserError

PATH_KEYS = ("data.path", "evaluation.inception_weights")  # workers run in another working directory

Fraction = Annotated[float, Field(ge=0, le=1)]
Distance = Literal["fd_classifier", "fd_lite0@32", "fd_lite0@64", "fd_lite0@224", "fd_pixels", "fid"]
Memorization = Literal["mem_excess", "mem_ratio"]
Endpoint = Literal["zero", "observed"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    source: Literal["digits", "folder"] = Field("digits", description="where the images come from")
    path: str | None = Field(None, description="the folder of PNG and JPEG files, for source=folder")
    image_size: int = Field(8, ge=4, le=1024, description="side in pixels; images are resized by area")
    channels: Literal[1, 3] = Field(1, description="1: grey, 3: RGB")
    train_size: int = Field(150, ge=2, description="images for training")
    heldout_size: int | None = Field(None, ge=2, description="images held out as reference; all the rest by default")
    split_seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the split into training and held-out images")
    flip: bool = Field(False, description="mirror half of the training images (after the noise, exact)")


class ObservedConfig(Section):
    sigma: float = Field(0.3, ge=0, le=100, description="noise level of the observed images, data in [-1, 1]")
    base_sigma: float = Field(0.0, ge=0, le=100, description="noise level of the copies that all levels are made from")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the one fixed noise draw per image")


class ObjectiveConfig(Section):
    kind: Literal["ambient_consistency", "ambient", "ambient_high_clean_low", "denoising"] = Field(
        "ambient_consistency", description="what is trained: see docs/objectives.md"
    )


class NoiseConfig(Section):
    mean: float = Field(-1.2, ge=-10, le=10, description="mean of log sigma in training (EDM's P_mean)")
    std: float = Field(1.2, gt=0, le=10, description="standard deviation of log sigma in training (EDM's P_std)")


class ConsistencyConfig(Section):
    weight: float = Field(0.3, ge=0, le=1000, description="weight of the consistency loss")
    start: Fraction = Field(0.75, description="fraction of training before which the weight is 0")
    ramp: Literal["step", "linear", "cosine"] = Field("step", description="how the weight rises after start")
    ramp_fraction: Fraction = Field(0.1, description="fraction of training over which it rises")
    batch_share: float = Field(0.5, gt=0, le=1, description="share of the batch that gets the consistency loss")
    chain_steps: int = Field(2, ge=1, le=64, description="reverse steps from the observed level down to the last level")
    branch: Literal["boundary", "last"] = Field(
        "boundary", description="where the two draws part: at the observed level, or before the last step"
    )
    rollout_gradient: bool = Field(False, description="let the gradient flow through the steps after the branch")


class ModelConfig(Section):
    kind: Literal["mlp", "unet"] = Field("unet", description="mlp: residual MLP for tiny images; unet: small U-Net")
    width: int = Field(64, ge=8, le=4096, multiple_of=8, description="hidden width (mlp), base channels (unet)")
    blocks: int = Field(2, ge=1, le=64, description="residual blocks (mlp), blocks per resolution (unet)")
    levels: int = Field(2, ge=1, le=6, description="resolutions of the U-Net; width doubles at each up to 4x")
    sigma_data: float = Field(0.5, gt=0, le=10, description="standard deviation of the clean data (EDM)")


class OptimizerConfig(Section):
    lr: float = Field(1e-3, gt=0, le=1, description="peak learning rate of AdamW")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="learning rate after the warm-up")
    warmup: Fraction = Field(0.05, description="fraction of training over which the learning rate rises from 0")
    weight_decay: float = Field(0.0, ge=0, le=10, description="decoupled weight decay")
    beta2: float = Field(0.99, gt=0, lt=1, description="AdamW's second moment decay")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")


class EmaConfig(Section):
    halflife: int = Field(10_000, ge=0, description="half-life of the weights' moving average, in images; 0: off")
    rampup: float = Field(0.1, gt=0, le=1, description="half-life is at most this share of the images seen so far")


class TrainingConfig(Section):
    images: int = Field(200_000, ge=1, description="training length in images; the horizon of every schedule")
    batch_size: int = Field(64, ge=1, le=65536, description="images per step over all workers")
    stop: float = Field(1.0, gt=0, le=1, description="fraction of the run at which training ends; no schedule changes")
    checkpoints: int = Field(8, ge=1, le=1000, description="states saved for resuming, evenly over the run")
    records: int = Field(100, ge=1, le=100_000, description="training records logged, evenly over the run")


class SamplingConfig(Section):
    steps: int = Field(18, ge=2, le=1000, description="Heun steps from sigma_max to 0")
    sigma_min: float = Field(0.002, gt=0, le=1, description="last nonzero noise level")
    sigma_max: float = Field(80.0, gt=0, le=10_000, description="first noise level")
    rho: float = Field(7.0, ge=1, le=100, description="spacing of the noise levels (EDM)")


class EvaluationConfig(Section):
    lengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.25, 0.5, 0.75, 1.0), min_length=1, description="fractions of training with a full evaluation"
    )
    samples: int = Field(1000, ge=8, le=1_000_000, description="images generated per evaluation")
    batch_size: int = Field(500, ge=1, le=65536, description="images per batch in sampling and encoding")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the samples")
    endpoints: tuple[Endpoint, ...] = Field(
        ("zero", "observed"), min_length=1, description="sampling down to 0, and stopped at the observed level"
    )
    distances: tuple[Distance, ...] = Field(("fd_pixels",), min_length=1, description="Frechet distances to measure")
    fidelity: Distance = Field("fd_pixels", description="the distance that is the first objective")
    memorization: Memorization = Field("mem_excess", description="the second objective")
    quantile: float = Field(0.01, gt=0, lt=0.5, description="held-out quantile below which mem_excess counts")
    inception_weights: str | None = Field(None, description="file of clean-fid's Inception weights, for fid")


class ResourcesConfig(Section):
    workers: int = Field(1, ge=1, le=1024, description="workers per trial")
    cpus: float = Field(1.0, gt=0, le=1024, description="CPU cores per worker")
    gpus: float = Field(0.0, ge=0, le=8, description="GPUs per worker")


class Config(Section):
    """One training run with its evaluation; frozen. Equal configs train equal models."""

    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of initial weights and of all draws in training")
    data: DataConfig = DataConfig()
    observed: ObservedConfig = ObservedConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    noise: NoiseConfig = NoiseConfig()
    consistency: ConsistencyConfig = ConsistencyConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _no_contradictions(self) -> "Config":
        problem = next(_contradictions(self), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return math.ceil(self.training.images / self.training.batch_size)

    def images_at(self, fraction: float) -> int:
        """Images after the step that ends nearest to `fraction` of the run; at least one step."""
        return max(1, round(fraction * self.steps)) * self.training.batch_size

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints of sampling that differ for this config: at observed.sigma = 0 there is only one."""
        return self.evaluation.endpoints if self.observed.sigma > 0 else ("zero",)

    def main_endpoint(self) -> Endpoint:
        """The endpoint the objective is made for: `ambient` trains nothing below the observed level."""
        wanted: Endpoint = "observed" if self.objective.kind == "ambient" else "zero"
        return wanted if wanted in self.endpoints() else self.endpoints()[0]

    def fingerprint(self) -> str:
        """A hash of all values, 16 hex digits."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _contradictions(c: Config) -> Iterator[str]:
    if c.data.source == "digits" and (c.data.image_size, c.data.channels) != (8, 1):
        yield "data.image_size, data.channels: the digits are 8x8 and grey; use 8 and 1, or data.source=folder"
    if c.data.source == "folder" and c.data.path is None:
        yield "data.path: missing; data.source=folder needs the folder of the images"
    if c.data.source != "folder" and c.data.path is not None:
        yield f"data.path: only data.source=folder reads a path; remove it or change data.source={c.data.source}"
    if c.observed.sigma < c.observed.base_sigma:
        yield (
            f"observed.sigma: {c.observed.sigma} is below observed.base_sigma={c.observed.base_sigma}; "
            "noise can be added to the base, not removed"
        )
    if c.objective.kind in ("ambient", "ambient_consistency", "ambient_high_clean_low") and c.observed.sigma == 0:
        yield (
            f"observed.sigma: 0 contradicts objective.kind={c.objective.kind}, which needs noise; "
            "use objective.kind=denoising for training on clean images"
        )
    if c.objective.kind == "ambient_high_clean_low" and c.observed.base_sigma > 0:
        yield "observed.base_sigma: objective.kind=ambient_high_clean_low reads clean images; it needs base_sigma=0"
    if c.training.batch_size % c.resources.workers:
        yield (
            f"training.batch_size: {c.training.batch_size} cannot be shared evenly by "
            f"resources.workers={c.resources.workers}; use a multiple"
        )
    if c.observed.sigma >= c.sampling.sigma_max:
        yield f"sampling.sigma_max: {c.sampling.sigma_max} is not above observed.sigma={c.observed.sigma}"
    if c.sampling.sigma_min >= c.sampling.sigma_max:
        yield f"sampling.sigma_min: {c.sampling.sigma_min} is not below sampling.sigma_max={c.sampling.sigma_max}"
    if c.evaluation.fidelity not in c.evaluation.distances:
        yield f"evaluation.fidelity: {c.evaluation.fidelity} is not among evaluation.distances"
    for name, values in (
        ("lengths", c.evaluation.lengths), ("distances", c.evaluation.distances), ("endpoints", c.evaluation.endpoints)
    ):  # fmt: skip
        if len(set(values)) != len(values):
            yield f"evaluation.{name}: has a value twice"
    if list(c.evaluation.lengths) != sorted(c.evaluation.lengths) or c.evaluation.lengths[-1] != 1:
        yield "evaluation.lengths: must rise and end with 1.0, the full length"
    if len({c.images_at(f) for f in c.evaluation.lengths}) != len(c.evaluation.lengths):
        yield f"evaluation.lengths: two of them fall on the same step of {c.steps}; train longer or evaluate less often"
    if "fid" not in c.evaluation.distances and c.evaluation.inception_weights is not None:
        yield "evaluation.inception_weights: only the distance fid reads it; add fid to evaluation.distances"
    divisor = 2 ** (c.model.levels - 1)
    if c.model.kind == "unet" and c.data.image_size % divisor:
        yield (
            f"model.levels: {c.model.levels} resolutions need data.image_size to be a multiple of {divisor}, "
            f"not {c.data.image_size}"
        )


# -- keys, files and overrides --------------------------------------------------------------------------------------


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted keys to dotted ones. Raises UserError where one key is given twice."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        items = flatten(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
        for inner, inner_value in items.items():
            if inner in flat:
                raise UserError(f"{inner}: given twice; keep one")
            flat[inner] = inner_value
    return flat


def dump(config: Config) -> dict[str, Any]:
    """All values under their dotted keys, as plain JSON types."""
    return flatten(config.model_dump(mode="json"))


def knobs() -> dict[str, tuple[Any, Any]]:
    """Every dotted key with its pydantic field and its default, in order."""
    result: dict[str, tuple[Any, Any]] = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for inner, inner_field in field.annotation.model_fields.items():
                result[f"{name}.{inner}"] = (inner_field, inner_field.default)
        else:
            result[name] = (field, field.default)
    return result


def check_keys(keys: Iterable[str], where: str = "config") -> None:
    """Raises UserError for the first key that is not a knob, with the nearest that is."""
    known = knobs()
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`ambient-sweep knobs` lists the keys"
            raise UserError(f"{where}: unknown key {key!r}; {hint}")


def build_config(*layers: Mapping[str, Any], where: str = "config") -> Config:
    """The config of the defaults overlaid by `layers`, later ones winning.

    Raises UserError, one line that names the key, for unknown keys, values out of range and contradictions.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values.update(flatten(layer))
    check_keys(values, where)
    fields = knobs()
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, bool) and fields[key][0].annotation is not bool:
            raise UserError(
                f"{where}: {key}: {str(value).lower()} is neither a number nor a word; quote it if it is one"
            )
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """A pydantic error as one line: key, complaint, value."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        lines.append(f"{key}: {message[0].lower()}{message[1:]}, not {item['input']!r}" if key else message)
    return "; ".join(lines)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` words to a mapping, values read as YAML. Raises UserError for a word without '='."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UserError(f"{pair!r}: expected key=value, as in observed.sigma=0.3")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{key}: cannot read the value {text!r}; quote it") from None
    return values


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would let win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if str(key) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(str(key))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping. Raises UserError that names the file, line and complaint."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise UserError(f"{path}:{line} {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of keys to values")
    return tree


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config in a YAML file, overlaid by `overrides`; relative paths in it become absolute."""
    values = flatten(read_yaml(path)) | flatten(overrides or {})
    if "space" in {key.partition(".")[0] for key in values}:
        raise UserError(f"{path}: is a sweep, not the config of one run; use `ambient-sweep run`")
    for key in PATH_KEYS:
        if isinstance(values.get(key), str):
            values[key] = str(Path(values[key]).expanduser().absolute())
    return build_config(values, where=str(path))


def write_config(config: Config, path: Path, header: str = "") -> None:
    """All values as YAML that `load_config` reads back to an equal config."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    path.write_text(comment + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
