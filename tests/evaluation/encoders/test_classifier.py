import pytest
import torch
from encoder_images import noise

from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import classifier, train_classifier
from ambient_sweep.evaluation.encoders.classifier import classifier_pixels
from ambient_sweep.evaluation.reference import Reference


def test_classifier_knows_digits_that_it_has_not_seen(digits: ImageData, reference: Reference) -> None:
    classifier = reference.encoders.classifier
    logits = classifier(classifier_pixels(to_uint8(digits.train[:])))
    assert (logits.argmax(1) == digits.train_labels).float().mean() > 0.96
    features = reference.encoders.encode("fd_classifier", [to_uint8(digits.train[:])], len(digits.train), "cpu")
    assert features.shape == (500, 64)


def test_classifier_is_the_same_every_time_whatever_the_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 5)
    images, labels = noise(60, 3, 40), torch.arange(60) % 3
    torch.manual_seed(1)
    first = train_classifier(images, labels).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = train_classifier(images, labels).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_classifier_without_labels_or_classes_is_refused() -> None:
    with pytest.raises(UserError, match="fd_classifier needs held-out images with labels"):
        train_classifier(noise(10, 1, 8), None)
    with pytest.raises(UserError, match="at least 2 classes, there are 1"):
        train_classifier(noise(10, 1, 8), torch.zeros(10, dtype=torch.int64))
