"""A model measured in full: an untrained one, against digits."""

import dataclasses
import sys

import pytest
import torch

from ambient_sweep import terminal
from ambient_sweep.cli import commands
from ambient_sweep.config import build_config
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.pixels import Pixels
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.evaluation.attack.extraction import LEAST
from ambient_sweep.evaluation.evaluator import evaluate
from ambient_sweep.evaluation.reference import Reference
from ambient_sweep.models import build_model
from ambient_sweep.terminal import Screen
from ambient_sweep.trial.checkpoint_evaluation import evaluate_checkpoint
from ambient_sweep.trial.samples import generate

SMALL = {
    "data.train_size": 150,
    "model": {"kind": "mlp", "width": 32, "blocks": 1},
    "evaluation": {"samples": 60, "lengths": [1.0]},
    "sampling.steps": 3,
}


@pytest.fixture(scope="module")
def trained():
    config = build_config(SMALL)
    return build_model(config.model, (1, 8, 8), 0), config, load_data(config.data).fingerprint


def test_rows_are_what_a_sweep_measures_and_more(trained):
    model, config, fingerprint = trained
    found = evaluate_checkpoint(model, config, 0, fingerprint)
    assert list(found.samples) == ["zero", "observed"]
    samples = generate(config, model, (1, 8, 8), 60, 0, endpoints=config.endpoints(0))
    reference = Reference.build(load_data(config.data), config.evaluation)
    for endpoint, report in found.samples.items():
        values = {row.name: row.measure.value for row in report.rows}
        for name, measure in evaluate(samples[endpoint], reference).items():
            assert values[name] == measure.value, name
        assert "sim_excess" in values
    assert [row.name for row in found.model][:2] == ["denoising_gap_0.05", "denoising_gap_0.1"]
    assert found.attack == ()


def test_an_attack_leaves_a_picture_of_each_of_its_ways(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "LOG_SECONDS", 0.0)
    model, config, fingerprint = trained
    said = []
    with Screen(said.append):
        found = evaluate_checkpoint(model, config, 0, fingerprint, attack_folder=tmp_path / "attack", attack_images=120)
    assert {"sampling: 32 of 60", "encoding by fd_pixels: 60 of 60", "denoising images: 64 of 120"} <= set(said)
    names = [path.name for path in sorted((tmp_path / "attack").iterdir())]
    assert names == sorted(f"{name}.png" for name in {row.name.rpartition("_")[0] for row in found.model[6:]})


def test_an_attack_that_needs_more_held_out_images_is_refused_before_sampling(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "LOG_SECONDS", 0.0)
    few = build_config(SMALL, {"data.heldout_size": 98, "evaluation.quantile": 0.05})
    said = []
    refused = pytest.raises(UserError, match=r"^--attack: needs at least 99 held-out images, there are 98$")
    with Screen(said.append), refused:
        evaluate_checkpoint(trained[0], few, 0, load_data(few.data).fingerprint, attack_folder=tmp_path / "attack")
    assert {line.partition(":")[0] for line in said} == {"reading images"}
    (option,) = (each for each in commands.commands["evaluate"].params if each.name == "attack_images")
    assert option.type.min == LEAST


def test_a_conditional_model_is_attacked_with_its_classes(tmp_path):
    config = build_config(SMALL, {"model.conditional": True})
    data = load_data(config.data)
    model = build_model(config.model, (1, 8, 8), 0, classes=10)
    found = evaluate_checkpoint(
        model, config, 0, data.fingerprint, attack_folder=tmp_path / "attack", attack_images=100
    )
    assert found.attack


def test_held_out_images_that_are_training_images_are_left_out_and_told(trained, monkeypatch):
    model, config, fingerprint = trained
    data = load_data(config.data)
    twice = Pixels(torch.cat([data.train[:5], data.heldout[:]]).numpy(), "signed")
    labels = torch.cat([data.train_labels[:5], data.heldout_labels])
    dirty = dataclasses.replace(data, heldout=twice, heldout_labels=labels)
    module = sys.modules["ambient_sweep.trial.checkpoint_evaluation"]
    monkeypatch.setattr(module, "load_clean", lambda *_: dirty)
    clean = evaluate_checkpoint(model, config, 0, fingerprint)
    assert "5 held-out images are training images too and were left out" in clean.warnings


def test_other_images_and_a_model_that_diverged(trained):
    model, config, _ = trained
    with pytest.raises(UserError, match="not the images this model was trained with"):
        evaluate_checkpoint(model, config, 0, "other")
    broken = build_model(config.model, (1, 8, 8), 0)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(AmbientSweepError, match="60 of 60 samples are not finite"):
        evaluate_checkpoint(broken, config, 0, load_data(config.data).fingerprint)
