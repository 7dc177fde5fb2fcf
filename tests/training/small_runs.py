"""Small runs on mixtures and made-up images, for the tests of the trainer."""

import functools
from pathlib import Path

import torch
from closed_forms import two_modes

from ambient_sweep.config import Config, build_config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.training.loop import Record, train
from ambient_sweep.training.state import TrainState, read_state

SHAPE = (1, 1, 2)
BASE = {
    "model": {"kind": "mlp", "width": 32, "blocks": 1},
    "training": {"images": 640, "batch_size": 16, "records": 10},
    "consistency": {"start": 0.5, "weight": 1.0},
    "evaluation.lengths": [1.0],
    "observed.sigma": 0.3,
}
UNET = BASE | {"model": {"kind": "unet", "width": 16, "blocks": 1, "levels": 2}}
CONDITIONAL = {"model.conditional": True, "model.label_dropout": 0.3}


def observations(count: int = 64, sigma: float = 0.3, clean: bool = False, seed: int = 0) -> ObservedImages:
    """Noisy points of a mixture, as images of `SHAPE`."""
    generator = torch.Generator().manual_seed(seed)
    x0 = two_modes().draw(count, generator).float()
    y = x0 + sigma * torch.randn(x0.shape, generator=generator)
    return ObservedImages(y, torch.full((count,), sigma), x0 if clean else None)


def pictures(count: int = 64, side: int = 8, channels: int = 1, clean_share: float = 0.0) -> ObservedImages:
    """Noisy blobs, one of three classes each; the first share of them without noise."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (count,), generator=generator)
    ramp = torch.linspace(-1, 1, side)
    x0 = torch.sin(3 * ramp * (labels[:, None] + 1))[:, None, None, :].expand(count, channels, side, side)
    sigma = torch.full((count,), 0.3)
    sigma[: round(clean_share * count)] = 0
    noise = torch.randn(count, channels, side, side, generator=generator)
    return ObservedImages(x0 + sigma[:, None, None, None] * noise, sigma, labels=labels, classes=3)


def shape_of(observed: ObservedImages) -> tuple[int, int, int]:
    channels, height, width = observed.images.shape[1:]
    return channels, height, width


def new_state(config: Config, observed: ObservedImages, **options: object) -> TrainState:
    classes = observed.classes if config.model.conditional else 0
    return TrainState.create(config, shape_of(observed), classes=classes, **options)  # type: ignore[arg-type]


def loaded(folder: Path, config: Config, observed: ObservedImages) -> TrainState:
    """The state saved in `folder`."""
    state = new_state(config, observed)
    state.restore(folder, *read_state(folder))
    return state


def run(
    config: Config, observed: ObservedImages, state: TrainState | None = None, **options: object
) -> tuple[TrainState, list[Record]]:
    """Trains to the end; the state and the records."""
    state = state or new_state(config, observed)
    return state, list(train(config, observed, state, **options))  # type: ignore[arg-type]


def small(*changes: dict[str, object], base: dict[str, object] = BASE) -> Config:
    return build_config(base, *changes)


def assert_same_bits(first: TrainState, second: TrainState) -> None:
    assert first.images == second.images
    assert first.tensors().keys() == second.tensors().keys()
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


def distance(first: TrainState, second: TrainState) -> float:
    """|| a - b || / || b || over all weights."""
    a, b = (torch.cat([p.detach().flatten() for p in s.denoiser.parameters()]) for s in (first, second))
    return float((a - b).norm() / b.norm())


DIT = BASE | {"model": {"kind": "dit", "width": 16, "blocks": 2, "patch": 2, "head_width": 8}}
NETWORKS = {"mlp": (BASE, observations), "unet": (UNET, lambda: pictures(32)), "dit": (DIT, lambda: pictures(32))}
LENGTH = {"training.images": 16 * 30}


@functools.cache
def plain_run(network: str, device: str = "cpu") -> tuple[TrainState, list[Record]]:
    config, observed = build_config(NETWORKS[network][0], LENGTH), NETWORKS[network][1]()
    return run(config, observed, new_state(config, observed, device=device))


def compared(network: str, knob: dict[str, object], device: str = "cpu") -> tuple[float, float]:
    """Relative distance of the weights after 30 steps to those of the plain path, and the largest of the losses'."""
    plain, records = plain_run(network, device)
    config, observed = build_config(NETWORKS[network][0], LENGTH, knob), NETWORKS[network][1]()
    other, others = run(config, observed, new_state(config, observed, device=device))
    losses = max(abs(a.loss / b.loss - 1) for a, b in zip(others, records, strict=True))
    assert distance(new_state(config, observed, device=device), plain) > 0.03  # it has learnt something by then
    return distance(other, plain), losses
