"""A small convolutional classifier, trained on the held-out images and their labels, whose features measure digits.

Deterministic: initial weights come from an own generator, batches from keyed random numbers. No augmentation: a digit
of 8x8 pixels fills its frame, and shifting it by one made the classifier worse.
"""

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_sweep import rng
from ambient_sweep.errors import UserError

FEATURES = 64
SIDE = 32  # larger images are area-averaged to this
STEPS = 300
BATCH = 64
LEARNING_RATE = 2e-3


class Classifier(nn.Module):
    """Three convolutions and two linear layers: pixels in [-1, 1], float32 [N, C, H, W] -> logits [N, classes]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(64 * 4, FEATURES)
        self.output = nn.Linear(FEATURES, classes)

    def features(self, pixels: Tensor) -> Tensor:
        """The penultimate layer, float32 [N, 64]."""
        hidden: Tensor = F.relu(self.hidden(self.convolutions(pixels)))
        return hidden

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.output(self.features(pixels))
        return logits


class ClassifierEncoder:
    """The penultimate layer of the classifier trained on the held-out images."""

    name = "classifier"
    batch = 512

    def __init__(self, model: Classifier, device: str) -> None:
        self.model = copy.deepcopy(model).to(device).eval()

    def __call__(self, images: Tensor) -> Tensor:
        return self.model.features(classifier_pixels(images))


def classifier_pixels(images: Tensor) -> Tensor:
    """Images uint8 [N, C, H, W] to the classifier's input: float32 in [-1, 1], area-averaged to at most 32x32."""
    height, width = (min(SIDE, side) for side in images.shape[-2:])
    return F.adaptive_avg_pool2d(images.float() / 127.5 - 1, (height, width))


def empty_classifier(channels: int, classes: int) -> Classifier:
    """A classifier on the CPU whose weights are not set yet; draws nothing from torch's global generator."""
    with torch.device("meta"):
        model = Classifier(channels, classes)
    return model.to_empty(device="cpu")


def train_classifier(images: Tensor, labels: Tensor | None) -> Classifier:
    """The classifier of images uint8 [N, C, H, W] and labels [N], on the CPU. Raises UserError for less than two classes."""
    classes, inverse = classes_of(labels)
    targets = torch.from_numpy(inverse)
    model = empty_classifier(images.shape[1], len(classes))
    _initialise(model)
    pixels = torch.cat([classifier_pixels(part) for part in torch.split(images, 1024)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        batch = torch.from_numpy((rng.uniform("classifier/batch", 0, step, 1, BATCH)[0] * len(pixels)).astype("int64"))
        loss = F.cross_entropy(model(pixels[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval().requires_grad_(False)


def classes_of(labels: Tensor | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """The classes among labels [N], and each label's place among them. Raises UserError for less than two."""
    classes, inverse = np.unique([] if labels is None else labels.cpu().numpy(), return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"evaluation.distances: fd_classifier needs held-out images with labels of at least 2 classes, there are "
            f"{len(classes)}; hold out more images, or use fd_lite0@32 or fd_pixels"
        )
    return classes, inverse


def _initialise(model: Classifier) -> None:
    """He's initialisation (2015) from an own generator; biases zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
