"""Averages reconstructed from snapshots: against the weighted sum over all weights of a training, beside known mistakes."""

import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ambient_sweep.cli import commands
from ambient_sweep.config import build_config
from ambient_sweep.config.positions import snapshot_images
from ambient_sweep.diffusion.ema import gamma_from_length
from ambient_sweep.errors import UserError
from ambient_sweep.models import build_model
from ambient_sweep.training import posthoc_ema as module
from ambient_sweep.training.averages import Averages, part
from ambient_sweep.training.files import read_tensors, write_tensors
from ambient_sweep.training.posthoc_ema import SNAPSHOTS, reconstruct, save_snapshot, snapshot_folder
from ambient_sweep.training.state import load_model, positions_in
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare

SHAPE, BATCH, STEPS = (1, 8, 8), 16, 640
BASE = {
    "model": {"kind": "mlp", "width": 16, "blocks": 1},
    "training": {"images": STEPS * BATCH, "batch_size": BATCH},
    "ema": {"kind": "power", "length": 0.15, "tracked": [0.05, 0.1]},
    "evaluation": {"samples": 32, "lengths": [0.25, 0.5, 1.0], "batch_size": 32},
    "sampling.steps": 3,
    "objective.kind": "denoising",
}
NOTES = {"shape": SHAPE, "data_fingerprint": "abc", "classes": 0}


def drifting(config, generator):
    """A drift that slows down, under noise that dies away, as with a falling learning rate."""
    denoiser = build_model(config.model, SHAPE, 0)
    with torch.no_grad():
        goals = [torch.randn(p.shape, generator=generator) for p in denoiser.parameters()]
        noise = [torch.zeros_like(p) for p in denoiser.parameters()]
        for step in range(STEPS):
            left = 1 - step / STEPS
            for p, goal, n in zip(denoiser.parameters(), goals, noise, strict=True):
                n.mul_(0.9).add_(0.1 * left * torch.randn(p.shape, generator=generator))
                p.add_(goal - p, alpha=0.01 * left).add_(n, alpha=0.05)
            yield denoiser


def flat(tensors):
    """All values of named tensors, in the order of the names."""
    return np.concatenate([t.detach().double().numpy().ravel() for _, t in sorted(dict(tensors).items())])


class Training:
    """A training with its snapshots in `folder`, all its weights in `history` [steps, weights], and its config."""

    def __init__(self, folder, walk, changes=None, generator=None):
        self.folder, self.config = folder, build_config(BASE, changes or {})
        self.history, self.averages = [], None
        for step, denoiser in enumerate(walk(self.config, generator or torch.Generator().manual_seed(0)), 1):
            if self.averages is None:
                self.averages = Averages.create(self.config.ema, denoiser)
            before, images = (step - 1) * BATCH, step * BATCH
            self.averages.update(list(denoiser.parameters()), before, images)
            self.history.append(flat(denoiser.named_parameters()))
            if images in snapshot_images(self.config):
                save_snapshot(folder, self.config, self.averages.tensors(), images, NOTES)

    def brute(self, length, images=STEPS * BATCH):
        """The average as the weighted sum over all weights up to `images`, [weights]."""
        steps = images // BATCH
        shares = np.diff((np.arange(steps + 1) / steps) ** (gamma_from_length(length) + 1))
        return shares @ np.array(self.history[:steps])

    def error(self, length, weights, images=STEPS * BATCH):
        """|weights - average| / |average|."""
        average = self.brute(length, images)
        return np.linalg.norm(weights - average) / np.linalg.norm(average)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """One training for all tests that leave its snapshots alone."""
    torch.set_num_threads(1)
    return Training(tmp_path_factory.mktemp("trial"), drifting)


# What docs/averages.md promises of 16 snapshots of the lengths 0.05 and 0.1, relative to the norm of all weights.
PROMISED = {0.02: 1e-2, 0.05: 1e-6, 0.07: 2e-4, 0.1: 1e-6, 0.15: 5e-4, 0.25: 2e-2}


@pytest.mark.parametrize("length", PROMISED)
def test_any_length_is_reconstructed_within_the_promised_error(training, length):
    tensors, rebuilt = reconstruct(training.folder, length)
    assert (rebuilt.images, rebuilt.snapshots) == (STEPS * BATCH, 16)
    assert rebuilt.config.ema.length == length
    assert training.error(length, flat(tensors)) < PROMISED[length]
    if length in (0.05, 0.1):
        assert rebuilt.residual == 0
        assert np.array_equal(flat(tensors), flat(part(training.averages.tensors(), str(length))))
    else:
        assert 1e-4 < rebuilt.residual < 0.13


@pytest.mark.parametrize("length", [0.07, 0.15])
def test_known_mistakes_are_ten_times_worse(training, length, monkeypatch):
    right = training.error(length, flat(reconstruct(training.folder, length)[0]))
    short, long = (flat(part(training.averages.tensors(), name)) for name in ("0.05", "0.1"))
    share = (0.1 - length) / 0.05
    for wrong in (share * short + (1 - share) * long, short, long):  # interpolation, and the nearer of the two
        assert training.error(length, wrong) > 10 * right
    positions = positions_in(training.folder / SNAPSHOTS)
    stored = np.array([training.brute(0.05, position) for position in positions])
    weights, _ = module.coefficients(length, positions[-1], [0.05] * 16, positions)  # one tracked length alone
    assert training.error(length, weights @ stored) > 10 * right
    real = gamma_from_length
    monkeypatch.setattr("ambient_sweep.diffusion.ema.gamma_from_length", lambda v: real(v) + 1)  # off by one
    assert training.error(length, flat(reconstruct(training.folder, length)[0])) > 10 * right


@pytest.fixture
def trial(training, tmp_path):
    """A copy of three of its snapshots, to be damaged."""
    for images in positions_in(training.folder / SNAPSHOTS)[:3]:
        for name in ("snapshot.safetensors", "snapshot.json"):
            copy = snapshot_folder(tmp_path, images) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((snapshot_folder(training.folder, images) / name).read_bytes())
    return tmp_path


def test_what_cannot_be_reconstructed_is_refused_with_what_can(trial, tmp_path_factory):
    first, _, last = positions_in(trial / SNAPSHOTS)
    for length in (0.004, 0.29, float("nan")):
        with pytest.raises(UserError, match=r"ema\.length"):
            reconstruct(trial, length)
    with pytest.raises(UserError, match=f"no snapshot at {last + BATCH} images; .* the last at {last}"):
        reconstruct(trial, 0.15, images=last + BATCH)
    with pytest.raises(UserError, match=f"no snapshot at {first + 1} images; the nearest are at {first} and"):
        reconstruct(trial, 0.15, images=first + 1)
    assert reconstruct(trial, 0.15, images=first)[1].residual > module.POOR, "of one snapshot"
    assert reconstruct(trial, 0.1, images=first)[1].residual == 0
    with pytest.raises(UserError, match=r"no snapshots; training writes them with ema\.kind=power"):
        reconstruct(tmp_path_factory.mktemp("empty"), 0.15)


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({}, [i * STEPS // 16 * BATCH for i in range(1, 17)]),  # evenly
        (
            {"ema.snapshots": 3, "evaluation.lengths": [0.1, 1.0], "training.stop": 0.8},
            [64 * BATCH, 213 * BATCH, 427 * BATCH, 512 * BATCH],  # at every evaluation and at the end too
        ),
        (
            {"training.images": 5 * BATCH, "evaluation.lengths": [1.0], "ema.snapshots": 1000},
            [BATCH * step for step in range(1, 6)],  # at most one a step
        ),
        ({"ema.kind": "halflife"}, []),
    ],
)
def test_where_snapshots_fall(changes, images):
    assert list(snapshot_images(build_config(BASE, changes))) == images


def rewritten(folder, **changes):
    """The snapshot in `folder`, written again with other notes."""
    tensors, meta = read_tensors(folder, "snapshot", "cpu")
    write_tensors(folder, "snapshot", tensors, {k: v for k, v in meta.items() if "sha256" not in k} | changes)


OTHER = build_config(BASE, {"seed": 7}).model_dump(mode="json")
UNUSABLE = {
    "a flipped bit": (lambda f: flip(f / "snapshot.safetensors"), r"snapshot\.safetensors: damaged"),
    "other training": (lambda f: rewritten(f, config=OTHER), "belongs to another training run"),
    "notes of another kind": (lambda f: (f / "snapshot.json").write_text("[]"), r"snapshot\.json: damaged"),
}


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", UNUSABLE)
def test_unusable_snapshots_are_refused_by_name(trial, harm):
    spoil, words = UNUSABLE[harm]
    spoil(snapshot_folder(trial, positions_in(trial / SNAPSHOTS)[1]))
    with pytest.raises(UserError, match=words):
        reconstruct(trial, 0.15)


def average(*words):
    return CliRunner().invoke(commands, ["average", *map(str, words)])


def test_the_command_writes_a_checkpoint(training, tmp_path):
    done = average(training.folder, "--length", 0.12, "--out", tmp_path / "c")
    assert done.exit_code == 0, done.exception
    assert "16 snapshots up to 10,240 images" in done.output
    model, config, meta = load_model(tmp_path / "c")
    assert np.array_equal(flat(model.state_dict()), flat(reconstruct(training.folder, 0.12)[0]))
    assert config == build_config(BASE, {"ema.length": 0.12})
    assert (meta["images"], meta["data_fingerprint"], meta["ema_length"]) == (STEPS * BATCH, "abc", 0.12)
    assert 0 < meta["ema_residual"] < 0.01
    poor = average(training.folder, "--length", 0.28, "--images", STEPS * BATCH // 2, "--out", tmp_path / "d")
    assert "; poorly represented: train with more" in poor.output
    again = average(training.folder, "--length", 0.15, "--out", tmp_path / "c")
    assert "already exists and is not an empty folder" in str(again.exception)


def test_a_trial_evaluates_what_the_command_reconstructs_later(tmp_path):
    """The whole way: a trial with a length that is not tracked, and its checkpoints beside those of the command."""
    changes = {"objective.kind": "ambient", "ema.snapshots": 8, "training.images": 1600, "training.batch_size": 32}
    config = build_config(BASE, changes)
    prepare(config, tmp_path)
    run_trial(config, tmp_path, "t")
    folder = tmp_path / "trials" / "t"
    assert positions_in(folder / SNAPSHOTS) == list(snapshot_images(config))
    for images in (config.images_at(f) for f in config.evaluation.lengths):
        out = tmp_path / f"average-{images}"
        assert average(folder, "--length", 0.15, "--images", images, "--out", out).exit_code == 0
        (trained, first, _), (later, second, _) = map(load_model, (folder / f"checkpoints/images-{images:09d}", out))
        assert first == second
        assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), later.parameters(), strict=True))
    shutil.rmtree(snapshot_folder(folder, 1600))  # as after a kill between the state and its snapshot
    run_trial(config, tmp_path, "t")
    assert positions_in(folder / SNAPSHOTS) == list(snapshot_images(config))
