"""Averages rebuilt from snapshots: against the weighted sum over all weights of a training, beside known mistakes."""

import json
import weakref

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from ambient_sweep.cli import commands
from ambient_sweep.config import build_config
from ambient_sweep.data.images import load_data
from ambient_sweep.diffusion.denoiser import edm_weight
from ambient_sweep.diffusion.power_ema import gamma_from_length, inner_products
from ambient_sweep.errors import UserError
from ambient_sweep.models import build_model
from ambient_sweep.training import rebuild as module
from ambient_sweep.training.averages import Averages, part
from ambient_sweep.training.rebuild import (
    as_denoiser,
    evaluated,
    rebuild,
    remove_snapshots,
    save_rebuilt,
    save_snapshot,
    snapshot_due,
    snapshot_folder,
    snapshot_images,
    snapshots_at,
)
from ambient_sweep.training.state import load_model
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


def trained_on_digits(config, generator):
    """Weights after each step of a real training at a constant learning rate, whose weights never come to rest."""
    images = load_data(build_config({}).data).train
    images = images if isinstance(images, torch.Tensor) else images.all()
    denoiser = build_model(config.model, SHAPE, 0)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=0)
    for _ in range(STEPS):
        x = images[torch.randint(len(images), (BATCH,), generator=generator)]
        sigma = (1.2 * torch.randn(BATCH, generator=generator) - 1.2).exp()
        noisy = x + sigma[:, None, None, None] * torch.randn(x.shape, generator=generator)
        error = ((denoiser(noisy, sigma) - x) ** 2).mean((1, 2, 3))
        optimizer.zero_grad()
        (edm_weight(sigma, 0.5) * error).mean().backward()
        optimizer.step()
        yield denoiser


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
        self.history, self.averages, self.at_evaluation = [], None, {}
        for step, denoiser in enumerate(walk(self.config, generator or torch.Generator().manual_seed(0)), 1):
            if self.averages is None:
                self.averages = Averages.create(self.config.ema, denoiser)
            before, images = (step - 1) * BATCH, step * BATCH
            self.averages.update(list(denoiser.parameters()), before, images)
            self.history.append(flat(denoiser.named_parameters()))
            if snapshot_due(self.config, before, images):
                self.at_evaluation[images] = evaluated(self.config, self.averages.tensors(), folder, images)
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


@pytest.fixture(scope="module", params=[trained_on_digits, drifting], ids=lambda walk: walk.__name__)
def training(request, tmp_path_factory):
    torch.set_num_threads(1)
    return Training(tmp_path_factory.mktemp("trial"), request.param)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """One training for all that does not touch its snapshots."""
    torch.set_num_threads(1)
    return Training(tmp_path_factory.mktemp("trial"), drifting)


# What docs/averages.md promises of 16 snapshots of the lengths 0.05 and 0.1, relative to the norm of all weights.
PROMISED = {
    0.02: 1e-2, 0.03: 3e-3, 0.05: 1e-6, 0.07: 2e-4, 0.08: 2e-4, 0.1: 1e-6, 0.12: 2e-4, 0.15: 5e-4, 0.2: 5e-3, 0.25: 2e-2,
}  # fmt: skip


@pytest.mark.parametrize("length", PROMISED)
def test_any_length_is_rebuilt_within_the_promised_error(training, length):
    tensors, rebuilt = rebuild(training.folder, length)
    assert (rebuilt.images, rebuilt.snapshots, rebuilt.length) == (STEPS * BATCH, 16, length)
    assert rebuilt.config.ema.length == length
    assert training.error(length, flat(tensors)) < PROMISED[length]
    if length in (0.05, 0.1):
        assert rebuilt.residual == 0
        assert np.array_equal(flat(tensors), flat(part(training.averages.tensors(), str(length))))
    else:
        assert 1e-4 < rebuilt.residual < 0.13


def test_averages_at_earlier_images_are_rebuilt_too(training):
    tensors, rebuilt = rebuild(training.folder, 0.07, images=STEPS * BATCH // 2)
    assert rebuilt.snapshots == 8
    assert training.error(0.07, flat(tensors), STEPS * BATCH // 2) < 1e-3
    assert training.error(0.07, flat(tensors)) > 1e-2  # which is another average than that of the whole run


def unconstrained(length, positions, lengths):
    """EDM2's least squares without the constraint on the sum."""
    gammas, times = [gamma_from_length(v) for v in lengths], np.array(positions) / positions[-1]
    target = inner_products(gammas, times, [gamma_from_length(length)], [1.0])
    return np.linalg.lstsq(inner_products(gammas, times, gammas, times), target, rcond=None)[0][:, 0]


@pytest.mark.parametrize("length", [0.07, 0.15])
def test_known_mistakes_are_told_from_the_right_way(training, length, monkeypatch):
    right = training.error(length, flat(rebuild(training.folder, length)[0]))
    short, long = (flat(part(training.averages.tensors(), name)) for name in ("0.05", "0.1"))
    share = (0.1 - length) / 0.05
    assert training.error(length, share * short + (1 - share) * long) > 10 * right  # interpolation between the two
    assert min(training.error(length, short), training.error(length, long)) > 10 * right  # the nearer of the two

    positions = np.repeat(snapshots_at(training.folder), 2)
    stored = np.array([training.brute(v, p) for p, v in zip(positions, [0.05, 0.1] * 16, strict=True)])
    weights = unconstrained(length, positions, [0.05, 0.1] * 16)
    assert training.error(length, weights @ stored) > 1.2 * right
    constant = abs(weights.sum() - 1)
    assert constant > 1e-5  # what it takes from weights that never change, which are rebuilt exactly below
    for one in (0, 1):  # snapshots of one tracked length alone
        weights = module.coefficients(length, positions[-1], [(0.05, 0.1)[one]] * 16, positions[one::2]).weights
        assert training.error(length, weights @ stored[one::2]) > 10 * right

    real = gamma_from_length
    monkeypatch.setattr("ambient_sweep.diffusion.power_ema.gamma_from_length", lambda v: real(v) + 1)  # off by one
    wrong = flat(rebuild(training.folder, length)[0])
    assert training.error(length, wrong) > 10 * right


def test_evaluation_in_training_and_rebuilding_afterwards_give_the_same_bits(training):
    for images, (tensors, residual) in training.at_evaluation.items():
        if images == snapshots_at(training.folder)[0]:
            continue  # a single snapshot: refused afterwards
        later, rebuilt = rebuild(training.folder, training.config.ema.length, images)
        assert residual == rebuilt.residual
        assert sorted(tensors) == sorted(later)
        assert all(torch.equal(tensors[name], later[name]) for name in later)


def test_weights_that_never_change_are_rebuilt_to_the_bit(tmp_path):
    def still(config, generator):
        denoiser = build_model(config.model, SHAPE, 0)
        for p in denoiser.parameters():
            torch.nn.init.normal_(p, generator=generator)
        for _ in range(STEPS):
            yield denoiser

    training = Training(tmp_path, still)
    for length in (0.01, 0.03, 0.07, 0.15, 0.25, 0.28):
        tensors, _ = rebuild(tmp_path, length)
        assert np.array_equal(flat(tensors), training.history[0])


def test_a_tracked_length_needs_no_rebuilding(short):
    for length, name in ((0.05, "0.05"), (0.1, "0.1")):
        config = build_config(BASE, {"ema.length": length})
        tensors, residual = evaluated(config, short.averages.tensors(), short.folder / "none", STEPS * BATCH)
        assert residual == 0
        assert all(torch.equal(a, b) for a, b in zip(tensors.values(), short.averages.models[name], strict=True))
    config = build_config(BASE, {"ema.kind": "halflife"})
    averages = Averages.create(config.ema, nn.Linear(2, 2))
    assert evaluated(config, averages.tensors(), short.folder / "none", 64) == (averages.main(), 0.0)


def test_snapshots_fall_evenly_on_every_evaluation_and_on_the_end():
    config = build_config(BASE)
    evenly = [i * STEPS // 16 * BATCH for i in range(1, 17)]
    assert list(snapshot_images(config)) == evenly
    odd = build_config(BASE, {"ema.snapshots": 3, "evaluation.lengths": [0.1, 1.0], "training.stop": 0.8})
    assert list(snapshot_images(odd)) == [64 * BATCH, 213 * BATCH, 427 * BATCH, 512 * BATCH]
    due = [step for step in range(1, STEPS + 1) if snapshot_due(odd, (step - 1) * BATCH, step * BATCH)]
    assert [step * BATCH for step in due] == list(snapshot_images(odd))
    assert not snapshot_images(build_config(BASE, {"ema.kind": "halflife"}))
    few = build_config(BASE, {"training.images": 5 * BATCH, "evaluation.lengths": [1.0], "ema.snapshots": 1000})
    assert list(snapshot_images(few)) == [BATCH * step for step in range(1, 6)]  # no step has two


def test_one_snapshot_is_in_memory_at_a_time(short, monkeypatch):
    alive: list = []
    read = module.read_tensors

    def watched(*arguments, **options):
        assert not any(reference() is not None for reference in alive)
        tensors, meta = read(*arguments, **options)
        alive[:] = [weakref.ref(tensor) for tensor in tensors.values()]
        return tensors, meta

    monkeypatch.setattr(module, "read_tensors", watched)
    rebuild(short.folder, 0.15)
    assert len(alive) == 2 * len(short.averages.names)


@pytest.fixture
def trial(short, tmp_path):
    """A copy of three of its snapshots, to be damaged."""
    for images in snapshots_at(short.folder)[:3]:
        for name in ("snapshot.safetensors", "snapshot.json"):
            copy = snapshot_folder(tmp_path, images) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((snapshot_folder(short.folder, images) / name).read_bytes())
    return tmp_path


def test_damaged_and_foreign_snapshots_are_refused_by_name(trial):
    first, second, third = snapshots_at(trial)
    folder = snapshot_folder(trial, second)
    file, notes = folder / "snapshot.safetensors", folder / "snapshot.json"
    good = file.read_bytes(), notes.read_text()
    file.write_bytes(good[0][:-1] + bytes([good[0][-1] ^ 1]))
    with pytest.raises(UserError, match=f"images-{second:09d}/snapshot.safetensors: damaged"):
        rebuild(trial, 0.15)
    file.write_bytes(good[0])
    other = json.loads(good[1])
    other["config"]["seed"] = 7
    other.pop("notes_sha256")  # as if written so
    notes.write_text(json.dumps(other))
    with pytest.raises(UserError, match=f"images-{second:09d}: is of other training"):
        rebuild(trial, 0.15)
    other["config"] = json.loads(good[1])["config"] | {"resources": {"workers": 2, "cpus": 1.0, "gpus": 0.0}}
    notes.write_text(json.dumps(other))
    assert rebuild(trial, 0.15)[1].snapshots == 3  # a run may go on elsewhere
    notes.write_text(good[1][:100])
    with pytest.raises(UserError, match=f"images-{second:09d}"):
        rebuild(trial, 0.15)
    notes.write_text(good[1])
    (snapshot_folder(trial, third) / "snapshot.json").write_text("[]")
    with pytest.raises(UserError, match=rf"images-{third:09d}/snapshot\.json: damaged"):
        rebuild(trial, 0.15)
    (snapshot_folder(trial, third) / "snapshot.json").unlink()
    with pytest.raises(UserError, match=rf"images-{third:09d}/snapshot\.json: cannot be read"):
        rebuild(trial, 0.15)
    assert rebuild(trial, 0.15, images=second)[1].snapshots == 2  # those before it are sound
    (trial / "snapshots" / "images-first").mkdir()
    with pytest.raises(UserError, match="images-first: is no snapshot"):
        rebuild(trial, 0.15)
    assert first == STEPS * BATCH // 16


def test_snapshots_that_do_not_belong_together_are_refused(trial, short):
    broken = {key: tensor * float("nan") for key, tensor in short.averages.tensors().items()}
    second = snapshots_at(trial)[1]
    save_snapshot(trial, short.config, broken, second, NOTES)
    with pytest.raises(UserError, match=f"images-{second:09d}: holds weights that are not finite"):
        rebuild(trial, 0.15)
    smaller = {key: tensor.flatten()[:1] for key, tensor in short.averages.tensors().items()}
    save_snapshot(trial, short.config, smaller, second, NOTES)
    with pytest.raises(UserError, match=f"the snapshot at {second} images holds other weights"):
        rebuild(trial, 0.15)


def test_what_cannot_be_rebuilt_is_refused_with_what_can(trial, tmp_path_factory):
    first, _, last = snapshots_at(trial)
    for length in (0.004, 0.29, -0.1, float("nan")):
        with pytest.raises(UserError, match=r"is out of range; use 0\.005 to 0\.28"):
            rebuild(trial, length)
    with pytest.raises(UserError, match=f"no snapshot at {last + BATCH} images; .* the last at {last}"):
        rebuild(trial, 0.15, images=last + BATCH)
    with pytest.raises(UserError, match=f"no snapshot at {first + 1} images; the nearest are at {first} and"):
        rebuild(trial, 0.15, images=first + 1)
    with pytest.raises(UserError, match=f"too few snapshots up to {first} images.*use 0.05 or 0.1"):
        rebuild(trial, 0.15, images=first)
    assert rebuild(trial, 0.1, images=first)[1].residual == 0
    with pytest.raises(UserError, match=r"holds no snapshot; training writes them with ema\.kind=power"):
        rebuild(tmp_path_factory.mktemp("empty"), 0.15)


def test_snapshots_after_the_place_that_training_went_back_to_are_removed(trial):
    first, second, third = snapshots_at(trial)
    remove_snapshots(trial, third)
    assert snapshots_at(trial) == [first, second, third]
    remove_snapshots(trial, second - 1)
    assert snapshots_at(trial) == [first]
    remove_snapshots(trial / "none", 0)  # where there are none there is nothing to do


def test_half_written_snapshots_are_not_seen(trial):
    whole = snapshots_at(trial)
    (trial / "snapshots" / ".images-000099999.123.tmp").mkdir()
    assert snapshots_at(trial) == whole


def test_a_rebuilt_model_is_saved_as_any_other(short, tmp_path):
    tensors, rebuilt = rebuild(short.folder, 0.12)
    save_rebuilt(tmp_path / "m", tensors, rebuilt)
    model, config, meta = load_model(tmp_path / "m")
    assert config == build_config(BASE, {"ema.length": 0.12})
    assert (meta["images"], meta["data_fingerprint"], meta["ema_length"]) == (STEPS * BATCH, "abc", 0.12)
    assert 0 < meta["ema_residual"] < 0.01
    x, sigma = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.rand(3)
    assert torch.equal(model(x, sigma), as_denoiser(tensors, rebuilt)(x, sigma))


def average(*words):
    return CliRunner().invoke(commands, ["average", *map(str, words)])


def test_the_command_writes_a_checkpoint(short, tmp_path):
    done = average(short.folder, "--length", 0.15, "--out", tmp_path / "c")
    assert done.exit_code == 0, done.exception
    assert "16 snapshots up to 10,240 images" in done.output
    assert "length 0.15: residual 9.0e-03" in done.output
    weights = load_model(tmp_path / "c")[0].named_parameters()
    assert short.error(0.15, flat(weights)) < 5e-4
    poor = average(short.folder, "--length", 0.28, "--images", STEPS * BATCH // 2, "--out", tmp_path / "d")
    assert "length 0.28 is poorly represented" in poor.output
    assert load_model(tmp_path / "d")[2]["images"] == STEPS * BATCH // 2
    again = average(short.folder, "--length", 0.15, "--out", tmp_path / "c")
    assert "is there already and is not an empty folder" in str(again.exception)
    two = average(short.folder, "--length", 0.15, "--length", 0.1, "--out", tmp_path / "e")
    assert "several lengths need --evaluate" in str(two.exception)
    assert not (tmp_path / "e").exists()


def test_the_command_chooses_the_length_by_evaluation(tmp_path, monkeypatch):
    fingerprint = load_data(build_config(BASE).data).fingerprint
    monkeypatch.setitem(NOTES, "data_fingerprint", fingerprint)
    training = Training(tmp_path / "t", trained_on_digits)
    lengths = (0.02, 0.1, 0.25)
    words = [word for length in lengths for word in ("--length", length)]
    done = average(training.folder, *words, "--evaluate", "--out", tmp_path / "c", "--json")
    assert done.exit_code == 0, done.exception
    result = json.loads(done.output)
    assert [row["length"] for row in result["lengths"]] == list(lengths)
    distances = {row["length"]: row["measures"]["fd_pixels"]["value"] for row in result["lengths"]}
    assert len(set(distances.values())) == 3
    assert result["length"] == min(distances, key=distances.get)
    assert load_model(tmp_path / "c")[1].ema.length == result["length"]
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("t", "c")] == []
    table = average(training.folder, *words, "--evaluate", "--out", tmp_path / "d").output
    assert f"best by fd_pixels: length {result['length']:g}" in table
    assert f"{distances[0.02]:.4f}" in table


def test_a_trial_evaluates_what_the_command_rebuilds_later(tmp_path):
    """The whole way: a trial with a length that is not tracked, and its checkpoints beside those of the command."""
    changes = {"objective.kind": "ambient", "ema.snapshots": 8, "training.images": 1600, "training.batch_size": 32}
    config = build_config(BASE, changes)
    prepare(config, tmp_path)
    run_trial(config, tmp_path, "t")
    folder = tmp_path / "trials" / "t"
    assert snapshots_at(folder) == list(snapshot_images(config))
    for images in (config.images_at(f) for f in config.evaluation.lengths):
        out = tmp_path / f"average-{images}"
        done = average(folder, "--length", 0.15, "--images", images, "--out", out)
        assert done.exit_code == 0, done.exception
        (trained, first, _), (rebuilt, second, _) = (
            load_model(folder / f"checkpoints/images-{images:09d}"),
            load_model(out),
        )
        assert first == second
        for (name, a), (_, b) in zip(trained.named_parameters(), rebuilt.named_parameters(), strict=True):
            assert torch.equal(a, b), name
