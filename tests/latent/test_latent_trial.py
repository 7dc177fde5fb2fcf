"""Trials of LoRA on latents: encoded and embedded once, sampled without clipping, decoded, and measured as pixels."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bases
import torch
from command_line import bad, good
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_bases import ONE_PROCESS

from ambient_sweep.config import Config, build_config, dump
from ambient_sweep.data.dataset import load_clean, load_data
from ambient_sweep.data.store import read_info, store_keys
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.evaluator import evaluate
from ambient_sweep.evaluation.reference import Reference
from ambient_sweep.latent import captions
from ambient_sweep.latent.base import open_base
from ambient_sweep.latent.codec import Codec, codec_of
from ambient_sweep.models import build
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.report import pictures
from ambient_sweep.stages.keys import prefix_of
from ambient_sweep.sweep.folder import check_unchanged, note_begun
from ambient_sweep.sweep.running.preflight import Node, preflight
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.training.state import TrainState, load_model, read_state, saved_states
from ambient_sweep.trial import setup
from ambient_sweep.trial.checkpoint_evaluation import evaluate_checkpoint
from ambient_sweep.trial.records import checkpoint_folder, evaluation_path, read_trial, read_trial_evaluations
from ambient_sweep.trial.remeasure import remeasure
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.samples import class_counts, generate

pytestmark = ONE_PROCESS
SMALL = {
    "model": {"kind": "lora", "conditional": True, "rank": 2},
    "observed.sigma": 0.5,
    "noise.law": "timesteps",
    "training": {"images": 16, "batch_size": 4, "records": 2, "checkpoints": 1},
    "optimizer": {"lr": 0.03, "warmup": 0},
    "sampling": {"steps": 2, "sigma_max": 14.6, "mode": "fast", "batch_size": 8, "guidance": 2},
    "evaluation": {"samples": 12, "lengths": [1.0], "extras": [], "quantile": 0.05, "similarity": "fd_pixels"},
}


@pytest.fixture(scope="module")
def config(latents: Path, pixels: Path, sdxl: Path) -> Config:
    own = {"model.base": str(sdxl), "evaluation.path": str(pixels)}
    return build_config(SMALL, store_keys(latents, read_info(latents)), own)


@pytest.fixture(scope="module")
def trained(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """The folder of two trials, and how often what costs much was done for both."""
    root, done = tmp_path_factory.mktemp("run"), {"encoded": 0, "read": 0, "embedded": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*values: Any, **more: Any) -> Any:
            done[name] += 1
            return function(*values, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codec, "encode", counted("encoded", Codec.encode))
        patch.setattr(Codec, "__init__", counted("read", Codec.__init__))
        patch.setattr("ambient_sweep.latent.captions._text_encoders", counted("embedded", None))
        codec_of.cache_clear()
        setup.prepare(config, root)
        run_trial(config, root, "one")
        run_trial(build_config(dump(config), {"observed.sigma": 1.0}), root, "two")
    return root, done


def test_a_sweep_encodes_and_embeds_nothing_again_and_reads_the_vae_once(trained: tuple[Path, dict[str, int]]) -> None:
    assert trained[1] == {"encoded": 0, "read": 1, "embedded": 0}


def test_samples_are_decoded_as_they_are_and_measured_as_pixels(
    trained: tuple[Path, dict[str, int]], config: Config, sdxl: Path
) -> None:
    root, _ = trained
    model, _, notes = load_model(checkpoint_folder(root, "one", 16))
    data, clean = setup.cached_data(config.data), load_clean(config, setup.cached_data)
    assert notes["shape"] == [4, 8, 8]
    latents = generate(
        config, model, data.shape, 12, 0, endpoints=config.endpoints(0), counts=class_counts(config, data)
    )
    codec, reference = Codec(open_base(sdxl)), setup.shared_reference(config, root)
    assert reference.train.shape[1:] == clean.shape
    for record in read_trial_evaluations(root, "one"):
        assert float(latents[record.endpoint].abs().max()) > 1
        assert evaluate(codec.decode(latents[record.endpoint]), reference) == record.measures
        with Image.open(evaluation_path(root, "one", 16, record.endpoint, ".png")) as picture:
            assert picture.mode == "RGB"


def test_the_attack_restores_latents_from_the_levels_of_the_base_and_shows_pixels(
    trained: tuple[Path, dict[str, int]], config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ambient_sweep.trial.checkpoint_evaluation.LEAST", 20)
    monkeypatch.setattr("ambient_sweep.trial.checkpoint_evaluation.GAP_IMAGES", 4)
    model, _, notes = load_model(checkpoint_folder(trained[0], "one", 16))
    found = evaluate_checkpoint(
        model, config, notes["images"], notes["data_fingerprint"], attack_folder=tmp_path / "attack", attack_images=6
    )
    rows = {row.name: row for row in found.model}
    levels = {name.split("_")[2] for name in rows if name.startswith("attack_mean_")}
    assert levels == {"0.344", "0.696", "1.62", "5.11"}  # timesteps 100, 250, 500 and 800
    for way in ("mean", "sampling"):
        row = rows[f"attack_{way}_1.62_error"]
        assert row.measure.n == 6
        assert row.null is not None
        assert row.null.n == 6
    with Image.open(tmp_path / "attack" / "attack_mean_1.62.png") as picture:
        assert picture.size == (6 * (48 + 4) + 4, 7 * (48 + 4) + 4)
    assert {*found.samples["zero"].histograms["pixels"]} == {"edges", "generated", "heldout"}


def test_samples_of_observed_latents_are_decoded_and_measured_against_the_clean_pixels(
    config: Config, pixels: Path, sdxl: Path, tmp_path: Path
) -> None:
    """The trial has no clean latent; its measures are those of decoded samples beside the pixel store, at both endpoints."""
    store = tmp_path / "noisy"
    good("prepare", store, "--from", pixels, "--latents", sdxl, "--observed-only", 0.5)
    own = {"data.train_size": 24, "data.heldout_size": 24, "observed.base_sigma": 0.5}
    noisy = build_config(dump(config), store_keys(store, read_info(store)), own)
    setup.prepare(noisy, tmp_path / "run")
    run_trial(noisy, tmp_path / "run", "one")
    model, _, _ = load_model(checkpoint_folder(tmp_path / "run", "one", 16))
    data = setup.cached_data(noisy.data)
    latents = generate(noisy, model, data.shape, 12, 0, endpoints=noisy.endpoints(0), counts=class_counts(noisy, data))
    clean = Reference.build(load_data(build_config(store_keys(pixels, read_info(pixels))).data), noisy.evaluation)
    records = read_trial_evaluations(tmp_path / "run", "one")
    assert {record.endpoint for record in records} == {"zero", "observed"}
    for record in records:
        assert evaluate(Codec(open_base(sdxl)).decode(latents[record.endpoint]), clean) == record.measures


def test_the_card_of_an_exported_lora_holds_what_was_measured_with_counts_and_intervals(
    trained: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    good("export", checkpoint_folder(trained[0], "one", 16), "--to", tmp_path / "lora")
    text = (tmp_path / "lora" / "README.md").read_text()
    records = read_trial_evaluations(trained[0], "one")
    assert len(records) == 2
    for record in records:
        for kind in ("fidelity", "memorization"):
            name = getattr(record, kind)
            m = record.measures[name]
            assert m.n == 12
            assert m.low is not None
            assert m.high is not None
            row = f"| seed 0 | {record.endpoint} | {name} ({kind}) | {m.value:.4g} | {m.low:.4g} to {m.high:.4g} | 12 |"
            assert row in text


def test_latents_of_the_attack_are_those_of_the_store(config: Config, latents: Path, sdxl: Path) -> None:
    from ambient_sweep.trial.checkpoint_evaluation import _subjects

    data, clean = setup.cached_data(config.data), load_clean(config, setup.cached_data)
    train, heldout = _subjects(config, clean, np.arange(24), 24, Codec(open_base(sdxl)).encode)
    torch.testing.assert_close(train.images, data.train[:])
    torch.testing.assert_close(heldout.images, data.heldout[:])
    assert train.labels is not None
    assert data.train_labels is not None
    assert train.labels.tolist() == data.train_labels.tolist()


def test_the_untouched_base_is_a_trial_of_every_sweep(trained: tuple[Path, dict[str, int]], config: Config) -> None:
    sweep = Sweep("s", {**dump(config), "seed": 3}, {})
    (trial,) = sweep.fixed_trials()
    assert (trial.role, trial.name) == ("control", "untouched base")
    run_trial(sweep.config_for(trial.values), trained[0], "base", role=trial.role)
    (record,) = read_trial_evaluations(trained[0], "base")
    model, _, notes = load_model(checkpoint_folder(trained[0], "base", record.images))
    assert notes["images"] == 4
    adapters = {name: weight for name, weight in model.state_dict().items() if "lora_B" in name}
    assert adapters
    assert not any(weight.any() for weight in adapters.values())
    plain = Sweep("s", dump(build_config({"model.kind": "mlp"})), {})
    assert plain.fixed_trials() == ()


def test_other_latents_are_refused_at_set_up(config: Config, pixels: Path) -> None:
    images = store_keys(pixels, read_info(pixels))
    with pytest.raises(UserError, match=r"^data\.path: holds images, but model\.kind=lora trains on latents"):
        setup.check_trials([build_config(dump(config), images)])
    with pytest.raises(UserError, match=r"model\.kind: mlp cannot decode latents \(data\.channels=4\)"):
        build_config(dump(config), {"model.kind": "mlp", "model.base": None, "noise.law": "lognormal"})


def test_noise_levels_above_those_of_the_base_are_refused_at_set_up(config: Config) -> None:
    for key, value in (("observed.sigma", 14.7), ("sampling.sigma_max", 80)):
        bad = build_config(dump(config), {"sampling.sigma_max": 20, key: value})
        with pytest.raises(UserError, match=rf"^{key}: {value} is above the noise levels of .*; use 14\.61 at most$"):
            setup.check_trials([bad])


def test_the_report_shows_similarity_beside_held_out_images_and_the_untouched_base(
    trained: tuple[Path, dict[str, int]], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = trained
    sweep = Sweep("s", dump(config), {})
    run_trial(sweep.config_for(sweep.fixed_trials()[0].values), root, "untouched", role="control")
    drawn: list[dict[str, list[float]]] = []
    place = "ambient_sweep.evaluation.memorization.similarity.histogram_picture"
    monkeypatch.setattr(place, lambda counts, title: drawn.append(counts) or b"png")
    rows = build_tables(root)
    (chosen,) = [row for row in rows.evaluations.to_pylist() if (row["trial_id"], row["endpoint"]) == ("one", "zero")]
    assert pictures.similarity_picture(root, chosen, rows.trials) == "data:image/png;base64,cG5n"
    (counts,) = drawn
    assert sum(counts["generated"]) == sum(counts["untouched base"]) == 12
    assert sum(counts["heldout"]) == 24
    (own,) = read_trial_evaluations(root, "untouched")
    assert own.similarities is not None
    assert (counts["untouched base"], counts["edges"]) == (own.similarities["generated"], own.similarities["edges"])


def test_a_checkpoint_is_refused_with_other_captions_or_another_vae(
    trained: tuple[Path, dict[str, int]], latents: Path, pixels: Path, sdxl: Path, tmp_path: Path
) -> None:
    checkpoint = checkpoint_folder(trained[0], "one", 16)

    def refused(command: str, change: str) -> str:
        return bad(command, checkpoint, *(("--count", 2, "--out", tmp_path / "none") * (command == "sample")), change)

    file, other = tmp_path / "captions.csv", tmp_path / "other"
    rows = [f"{number:02d}.png,{'xyz'[number % 3]}" for number in range(48)]
    file.write_text("\n".join(["file_name,text", *rows]))
    good("prepare", other, "--from", pixels, "--latents", sdxl, "--captions", file)
    for command in ("sample", "evaluate"):
        said = f"error: data.path: {other} has other captions than {checkpoint} was trained with; give its store as "
        assert refused(command, f"data.path={other}") == said + "data.path=STORE"
        assert refused(command, f"data.path={pixels}").startswith(
            f"error: data.path: {pixels}/embeddings.safetensors: "
        )
    damaged = shutil.copytree(latents, tmp_path / "damaged")
    (damaged / "embeddings.safetensors").write_bytes((latents / "embeddings.safetensors").read_bytes()[:1000])
    assert "has other captions than" in refused("sample", f"data.path={damaged}")
    with pytest.raises(
        UserError, match=r"^data\.path: .*embeddings\.safetensors: cannot be read \(.*; give a whole store"
    ):
        captions.embeddings(damaged)
    base = shutil.copytree(sdxl, tmp_path / "base")
    weights = base / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: 1.5 * value for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    for command in ("sample", "evaluate"):
        assert f"{base} has another VAE than {checkpoint} was trained for" in refused(command, f"model.base={base}")
    gone = tmp_path / "x"
    assert f"model.base: {gone} is gone; say where the base is now" in refused("sample", f"model.base={gone}")


def test_a_run_goes_on_where_its_base_lies_now_and_with_no_other(
    trained: tuple[Path, dict[str, int]], config: Config, sdxl: Path, tmp_path: Path
) -> None:
    root = trained[0]
    moved = shutil.copytree(sdxl, tmp_path / "moved")
    there = build_config(dump(config), {"model.base": str(moved)})
    state = TrainState.create(there, (4, 8, 8), classes=3)
    state.restore(root, *read_state(saved_states(root / "trials" / "one" / "state")[0]))
    assert state.images == 16
    assert prefix_of(there) == prefix_of(config)
    (record,) = remeasure(root, "one", 16, checkpoint_folder(root, "one", 16), 5, 12, str(moved))[:1]
    assert record.samples == 12
    good("export", checkpoint_folder(root, "one", 16), f"model.base={moved}", "--to", tmp_path / "out")
    assert str(moved) in (tmp_path / "out" / "config.yaml").read_text()
    sweep, other = (Sweep("s", dump(each), {}) for each in (config, there))
    note_begun(sweep, tmp_path)
    check_unchanged(other, tmp_path)
    ended = replace(
        read_trial(root, "one"), role="control", config=dump(config) | {"model.base": str(tmp_path / "gone")}
    )
    assert preflight(other, [Node(2, 0)], tmp_path, [ended]).trials > 1
    with pytest.raises(UserError, match=r"data\.seed|base\.seed: is 1 now"):
        check_unchanged(Sweep("s", dump(there) | {"seed": 1}, {}), tmp_path)
    with pytest.raises(UserError, match=r"^model\.base: .* has another VAE than the latents of data\.path"):
        setup.check_trials([build_config(dump(config), {"model.base": str(tiny_bases.sdxl(tmp_path / "b", seed=1))})])


def test_a_checkpoint_takes_its_base_wherever_that_is_now_and_no_other(
    trained: tuple[Path, dict[str, int]], sdxl: Path, tmp_path: Path
) -> None:
    checkpoint, moved = checkpoint_folder(trained[0], "one", 16), shutil.copytree(sdxl, tmp_path / "moved")
    words = ("sample", checkpoint, "--count", 2, "--out")
    good(*words, tmp_path / "here")
    good(*words, tmp_path / "there", f"model.base={moved}")
    pictures = [sorted(path.read_bytes() for path in (tmp_path / name).iterdir()) for name in ("here", "there")]
    assert pictures[0] == pictures[1]
    other = tiny_bases.sdxl(tmp_path / "other", seed=1)
    said = (
        f"error: model.base: {other} is not the base that {checkpoint} was trained on; give that as model.base=FOLDER"
    )
    assert bad(*words, tmp_path / "none", f"model.base={other}") == said
    file = moved / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("epsilon", "v_prediction"))
    assert "v_prediction" in file.read_text()
    build._opened.cache_clear()
    assert "is not the base that" in bad(*words, tmp_path / "none", f"model.base={moved}")
