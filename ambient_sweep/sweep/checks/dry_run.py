"""What can be known before anything starts: whether images, machine and disk allow a sweep, and how long it will take."""

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from ambient_sweep.config import Config
from ambient_sweep.config.cost import plain_images
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.observed import observe
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.required_images import unresolved
from ambient_sweep.models import base_of
from ambient_sweep.sweep.forecast import Forecast
from ambient_sweep.sweep.running.preflight import concurrent_trials, preflight, this_machine
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.text import duration
from ambient_sweep.training.compute import check_compiler
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import TrainState
from ambient_sweep.trial.setup import cached_data, check_evaluation, check_trials, keeps_clean, use_device

MEASURED_SECONDS, MEASURED_STEPS = 0.5, 100_000  # of training, for each size of batch: until either is reached
OVERNIGHT = 10 * 3600  # seconds; what a CPU needs beyond is worth a warning
ENCODED = 300  # samples that a core encodes and compares per second, roughly


@dataclass(frozen=True)
class Pace:
    """Images per second of one trial: in training, through the network once in sampling."""

    trained: float
    passed: float

    def training(self, config: Config) -> float:
        """Seconds for a whole training."""
        return plain_images(config, config.length) / self.trained

    def evaluation(self, config: Config) -> float:
        """Seconds for all its evaluations, at all endpoints."""
        return sum(self._evaluated(config, config.endpoints(images)) for images in evaluated_lengths(config))

    def _evaluated(self, config: Config, endpoints: tuple[str, ...]) -> float:
        passes = (2 * config.sampling.steps - 1) * (2 if config.sampling.guidance > 1 else 1)
        passes = 1 if endpoints == ("distilled",) else passes
        return config.evaluation.samples * (passes / self.passed + len(endpoints) / ENCODED)


def check_sweep(sweep: Sweep, configs: Sequence[Config]) -> list[str]:
    """Lines on the images, the machine and the time of a sweep, whose configs at its corners are `configs`.

    Raises UserError for what `run_sweep` refuses on this machine; of a cluster in RAY_ADDRESS nothing is known.
    """
    config = sweep.some_config()
    images = _check_images(configs)
    if "RAY_ADDRESS" in os.environ:
        return [*images, *unresolved(config.evaluation), "the cluster in RAY_ADDRESS: not asked"]
    try:
        plan = preflight(sweep, this_machine(), Path.cwd())
    except UserError as error:
        raise UserError(f"{error}; if a cluster is to run it, set RAY_ADDRESS") from None
    expected = min(Forecast.of(sweep).images_left(()), plan.images)
    expected += sweep.confirm.top * sweep.confirm.seeds * config.length
    pace = measure_pace(config, cached_data(config.data))
    return [*images, *plan.lines()[1:], expected_time(configs, pace, expected, plan.concurrent)]


def check_single(config: Config) -> list[str]:
    """The same of a single training run. Raises UserError for what `train_single` refuses."""
    images = _check_images([config])
    use_device(config)
    if config.resources.workers > 1 and "RAY_ADDRESS" not in os.environ:
        concurrent_trials(this_machine(), config.resources)
    return [*images, expected_time([config], measure_pace(config, cached_data(config.data)), config.length)]


def _check_images(configs: Sequence[Config]) -> list[str]:
    """Lines on the clean images, and on noise levels as timesteps of a base. Raises UserError for what cannot be used."""
    if any(config.compute.compile or config.sampling.compile for config in configs):
        check_compiler()
    clean = check_trials(configs)
    check_evaluation(clean, configs[0].evaluation)
    shape = "x".join(map(str, clean.shape))
    lines = [f"images: {len(clean.train):,} for training and {len(clean.heldout):,} held out, {shape}"]
    if configs[0].model.kind == "lora":
        base, levels = base_of(configs[0].model), sorted({config.observed.sigma for config in configs} - {0.0})
        lines.append("observed.sigma: " + ", ".join(f"{level:g} = t {base.timestep(level):.0f}" for level in levels))
    return lines


def measure_pace(config: Config, data: ImageData) -> Pace:
    """Trains a few steps of growing batches, for a few seconds, and puts a batch through the network."""
    device, classes = use_device(config), data.classes if config.model.conditional else 0
    observed = observe(data, config.observed, keeps_clean(config))
    state = TrainState.create(config, data.shape, device, classes)
    compute = config.compute.model_copy(update={"compile": False, "accumulate": 1})
    clock = time.perf_counter if device == "cuda" else _own_seconds
    most = config.training.batch_size // config.resources.workers
    for size in (*(size for size in (1, 4, 16, 64) if size < most), most):
        training = config.training.model_copy(
            update={"images": MEASURED_STEPS * size, "batch_size": size, "records": MEASURED_STEPS, "stop": 1.0}
        )
        short = config.model_copy(update={"training": training, "compute": compute})
        state.images = 0
        with closing(train(short, observed, state)) as records:
            next(records)  # the first step sets things up
            began, steps, seconds = clock(), 0, 0.0
            while seconds < MEASURED_SECONDS and next(records, None) is not None:
                steps, seconds = steps + 1, clock() - began
        trained = steps * size / seconds
        if seconds / steps > MEASURED_SECONDS:
            break
    x, sigma = torch.zeros(size, *data.shape, device=device), torch.ones(size, device=device)
    with torch.no_grad():
        began = clock()
        state.denoiser(x, sigma)[0, 0, 0, 0].item()
        passed = size / (clock() - began)
    return Pace(trained * config.resources.workers, passed * config.resources.workers)


def _own_seconds() -> float:
    """The processor time of this process per torch thread: others that run beside it do not count."""
    return time.process_time() / torch.get_num_threads()


def expected_time(configs: Sequence[Config], pace: Pace, images: float, concurrent: int = 1) -> str:
    """How long it takes to train so many images by these configs alike, as a warning where a CPU needs more than a night."""
    length = sum(config.length for config in configs)
    training, evaluation = (sum(map(of, configs)) for of in (pace.training, pace.evaluation))
    seconds = images / length * (training + evaluation) / concurrent
    line = (
        f"expected time on this machine: about {duration(seconds)}, at {length / training:.3g} images per second in training"
        + (f", {concurrent} trials at once" if concurrent > 1 else "")
    )
    if configs[0].resources.gpus or seconds < OVERNIGHT:
        return line
    cure = (
        "a smaller model.preset (unet-32-small, unet-64-small), fewer images to train or a GPU (resources.gpus=1) help"
    )
    return f"warning: {line}; {cure}"
