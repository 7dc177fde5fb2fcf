import pytest
import torch
from encoder_images import noise

from ambient_sweep.data.dataset import ImageData
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import build_encoder, classifier, encode, train_classifier
from ambient_sweep.evaluation.encoders.classifier import classifier_pixels
from ambient_sweep.evaluation.reference import Reference, to_uint8


def test_classifier_knows_digits_that_it_has_not_seen(digits: ImageData, reference: Reference) -> None:
    assert reference.classifier is not None
    assert digits.train_labels is not None
    logits = reference.classifier(classifier_pixels(to_uint8(digits.train.all())))
    assert (logits.argmax(1) == digits.train_labels).float().mean() > 0.96
    features = reference.encode("fd_classifier", to_uint8(digits.train.all()))
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


def test_classifier_takes_any_numbers_for_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 5)
    images = noise(20, 1, 5)
    labels = torch.arange(20) % 2
    first, second = train_classifier(images, labels), train_classifier(images, 7 + 1000 * labels)
    assert torch.equal(first.output.weight, second.output.weight)


def test_classifier_without_labels_or_classes_is_refused() -> None:
    with pytest.raises(UserError, match="fd_classifier needs labels"):
        train_classifier(noise(10, 1, 8), None)
    with pytest.raises(UserError, match="at least 2 classes, there is 1"):
        train_classifier(noise(10, 1, 8), torch.zeros(10, dtype=torch.int64))


def test_identity_tells_weights_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 2)
    images, labels = noise(20, 1, 8), torch.arange(20) % 2
    first = build_encoder("fd_classifier", classifier=train_classifier(images, labels))
    again = build_encoder("fd_classifier", classifier=train_classifier(images, labels))
    other = build_encoder("fd_classifier", classifier=train_classifier(images, 1 - labels))
    assert first.identity == again.identity != other.identity
    torch.testing.assert_close(encode(first, images, 3), encode(first, images, 20))
