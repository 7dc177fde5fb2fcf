"""Stores of latents against diffusers' own pipelines: encoded and embedded once, as labels and images of a model."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import bad, good
from PIL import Image
from safetensors.torch import load_file, save_file
from small_stores import CAPTIONS, PICTURES, SIDE, folder_of_pictures, pixel_store
from tiny_bases import ONE_PROCESS
from tiny_bases import sdxl as new_sdxl

from ambient_sweep.config import build_config
from ambient_sweep.data.dataset import load_clean, load_data
from ambient_sweep.data.store import Store, open_store, read_info, store_keys
from ambient_sweep.errors import UserError
from ambient_sweep.latent.base import open_base
from ambient_sweep.latent.captions import captions_of, embed
from ambient_sweep.latent.codec import Codec
from ambient_sweep.latent.prepare import check_latents

pytestmark = ONE_PROCESS


def pipeline(base: Path) -> Any:
    from diffusers import DiffusionPipeline

    missing = {name: None for name in ("text_encoder_3", "tokenizer_3") if base.name == "sd3"}
    return DiffusionPipeline.from_pretrained(base, local_files_only=True, **missing)


def names_of(store: Path) -> list[str]:
    names: list[str] = json.loads((store / "names.json").read_text())
    return names


@pytest.fixture(scope="module")
def opened(latents: Path) -> Store:
    return open_store(latents)


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_latents_are_scaled_means_of_the_posterior_and_captions_what_the_pipeline_makes_of_them(
    family: str, pixels: Path, pictures: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(family)
    good("prepare", tmp_path / "latents", "--from", pixels, "--latents", base)
    store, theirs = open_store(tmp_path / "latents"), pipeline(base)
    images = [np.asarray(Image.open(pictures / name), np.float32) / 127.5 - 1 for name in names_of(pixels)]
    vae, config = theirs.vae, theirs.vae.config
    with torch.no_grad():
        mean = vae.encode(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).latent_dist.mean
    wanted = (mean - (config.shift_factor or 0)) * config.scaling_factor
    torch.testing.assert_close(store.pixels[:], wanted)

    table = load_file(tmp_path / "latents" / "embeddings.safetensors")
    more = {"prompt_3": None} if family == "sd3" else {}
    for label, caption in enumerate(store.info.classes):
        prompt, none, pooled, none_pooled = theirs.encode_prompt(caption, None, **more)
        torch.testing.assert_close(table["prompt"][label], prompt[0])
        torch.testing.assert_close(table["pooled"][label], pooled[0])
    torch.testing.assert_close(table["prompt"][-1], none[0])  # what guidance starts from
    torch.testing.assert_close(table["pooled"][-1], none_pooled[0])
    assert (table["prompt"][-1] == 0).all() == (family == "sdxl")
    assert len(table["prompt"]) == len(CAPTIONS) + 1


def test_captions_are_the_classes_and_the_split_is_that_of_the_pixels(opened: Store, pixels: Path, sdxl: Path) -> None:
    store, whole = opened, open_store(pixels)
    assert store.info.classes == tuple(sorted(CAPTIONS))
    assert store.labels is not None
    found = [store.info.classes[label] for label in store.labels]
    assert found == [CAPTIONS[int(name[:2]) % len(CAPTIONS)] for name in store.names]
    np.testing.assert_array_equal(store.train_index, whole.train_index)
    np.testing.assert_array_equal(store.heldout_index, whole.heldout_index)
    base, latent = open_base(sdxl), store.info.latent
    assert latent is not None
    assert (latent.pixels, latent.base, latent.vae, latent.factor) == (
        whole.info.fingerprint, base.key, base.vae_key, 2,
    )  # fmt: skip
    assert store.info.shape == (4, SIDE // 2, SIDE // 2)
    assert str(sdxl.parent) not in (store.path / "store.json").read_text()


def test_decoding_inverts_the_scaling(opened: Store, sdxl: Path) -> None:
    codec, theirs = Codec(open_base(sdxl)), pipeline(sdxl)
    latents = opened.pixels[:5]
    with torch.no_grad():
        wanted = theirs.vae.decode(latents / theirs.vae.config.scaling_factor).sample
    torch.testing.assert_close(codec.decode(latents), wanted)


def test_parts_do_not_matter(opened: Store, sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, latents = Codec(open_base(sdxl)), opened.pixels[:5]
    images = codec.decode(latents)
    encoded = codec.encode(images)
    monkeypatch.setattr("ambient_sweep.latent.codec.PART", 2 * SIDE**2)
    torch.testing.assert_close(codec.decode(latents), images)
    torch.testing.assert_close(codec.encode(images), encoded)


def test_a_mirrored_latent_is_not_that_of_the_mirrored_image(pixels: Path, sdxl: Path) -> None:
    codec, images = Codec(open_base(sdxl)), open_store(pixels).pixels[:]
    right, wrong = codec.encode(images.flip(3)), codec.encode(images).flip(3)
    assert (right - wrong).norm() / right.norm() > 0.1  # 0.75 with SDXL's own VAE
    with pytest.raises(UserError, match=r"data\.flip: a mirrored latent is not that of the mirrored image"):
        build_config({"model.kind": "lora", "model.base": str(sdxl), "data.source": "store", "data.path": "x",
                      "data.channels": 4, "data.flip": True})  # fmt: skip


def test_observations_hide_every_clean_latent(opened: Store, pixels: Path, sdxl: Path, tmp_path: Path) -> None:
    out, sigma = tmp_path / "noisy ones", 1.618
    printed = good("prepare", out, "--from", pixels, "--latents", sdxl, "--observed-only", sigma)
    noisy = open_store(out)
    assert noisy.info.fingerprint == opened.info.fingerprint  # of the same clean latents
    assert noisy.info.classes == opened.info.classes
    words = shlex.split(printed.splitlines()[-1])  # the command to train with, ready to be pasted
    assert {
        f"data.path={out}", f"model.base={sdxl}", f"evaluation.path={pixels}", f"observed.base_sigma={sigma}",
    } <= set(words)  # fmt: skip
    assert {file.name for file in out.iterdir()} == {
        "store.json", "images.bin", "index.npy", "train_index.npy", "heldout_index.npy", "labels.npy",
        "embeddings.safetensors",
    }  # fmt: skip
    assert not any(name in (out / "store.json").read_text() for name in names_of(pixels))
    assert len(noisy.images) == len(noisy.train_index)
    noise = noisy.pixels[:] - opened.pixels[opened.rows(noisy.index)]
    assert float(noise.std()) == pytest.approx(sigma, rel=0.05)
    again = tmp_path / "again"
    good("prepare", again, "--from", pixels, "--latents", sdxl, "--observed-only", sigma)
    assert (again / "images.bin").read_bytes() != (out / "images.bin").read_bytes()  # nobody can draw it again


def test_latents_are_measured_against_their_own_pixels(
    latents: Path, pixels: Path, pictures: Path, sdxl: Path, tmp_path: Path
) -> None:
    keys = store_keys(latents, read_info(latents)) | {"model.kind": "lora", "model.base": str(sdxl)}
    clean = load_clean(build_config(keys, {"evaluation.path": str(pixels), "data.train_size": 10}))
    assert (clean.shape, len(clean.train)) == ((3, SIDE, SIDE), 10)
    with pytest.raises(UserError, match=r"holds latents; set evaluation\.path=\.\.\. to a store of the clean images$"):
        load_clean(build_config(keys))
    with pytest.raises(UserError, match=r"^evaluation\.path: .* holds latents; give the clean store$"):
        load_clean(build_config(keys, {"evaluation.path": str(latents)}))
    other = pixel_store(tmp_path / "other", pictures, seed=1)
    with pytest.raises(UserError, match=r"^evaluation\.path: .* holds other images than those behind data\.path"):
        load_clean(build_config(keys, {"evaluation.path": str(other)}))
    assert load_data(build_config(keys).data).trained_on()["latent"]


def test_another_base_or_vae_is_refused_by_name(opened: Store, pixels: Path, sdxl: Path, tmp_path: Path) -> None:
    check_latents(opened.info, open_base(sdxl))
    other = new_sdxl(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"^model\.base: .*other has another VAE than the latents of data\.path"):
        check_latents(opened.info, open_base(other))
    for file in (sdxl / "vae").iterdir():
        (other / "vae" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"^model\.base: .*other is not the base that data\.path was prepared for"):
        check_latents(opened.info, open_base(other))
    with pytest.raises(UserError, match=r"^data\.path: holds images, but model\.kind=lora trains on latents"):
        check_latents(read_info(pixels), open_base(sdxl))


def test_captions_come_from_an_option_a_file_or_the_store(pixels: Path, sdxl: Path, tmp_path: Path) -> None:
    good("prepare", tmp_path / "one", "--from", pixels, "--latents", sdxl, "--caption", "a photo")
    assert read_info(tmp_path / "one").classes == ("a photo",)
    rows = [{"file_name": name, "text": "odd" if int(name[:2]) % 2 else "even"} for name in names_of(pixels)]
    file = tmp_path / "captions.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    good("prepare", tmp_path / "two", "--from", pixels, "--latents", sdxl, "--captions", file)
    assert read_info(tmp_path / "two").classes == ("even", "odd")
    file.write_text("\n".join(map(json.dumps, rows[2:])))
    line = bad("prepare", tmp_path / "three", "--from", pixels, "--latents", sdxl, "--captions", file)
    assert f"2 images have no caption ({rows[0]['file_name']}, {rows[1]['file_name']})" in line
    rows[3]["text"] = "z" * 80
    file.write_text("\n".join(map(json.dumps, rows)))
    line = bad("prepare", tmp_path / "three", "--from", pixels, "--latents", sdxl, "--captions", file)
    assert f"{rows[3]['file_name']}: its caption has 82 tokens, of which the text encoder reads 77" in line
    assert not (tmp_path / "three").exists()


def test_captions_that_are_none_are_refused_by_name(opened: Store, tmp_path: Path) -> None:
    def refused(text: str | None, *rows: object) -> str:
        file = tmp_path / "captions.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(UserError) as caught:
            captions_of(opened, text, file if rows else None)
        return str(caught.value)

    all_ = [{"file_name": name, "text": "a"} for name in opened.names]
    name = opened.names[0]
    for way in ("./{}", "x\\\\..\\\\{}"):  # as in metadata.csv
        (tmp_path / "ways.jsonl").write_text(
            "".join(f'{{"file_name": "{way.format(n)}", "text": "a"}}\n' for n in opened.names)
        )
        assert captions_of(opened, None, tmp_path / "ways.jsonl") == ["a"] * len(all_)
    for wrong, shown in ((7, "7"), (["a", "b"], "['a', 'b']")):
        assert f"the caption of {name} is {shown}, not text" in refused(
            None, {"file_name": name, "text": wrong}, *all_[1:]
        )
    assert f": 1 image has no caption ({name}); add a row" in refused(None, *all_[1:])
    file = tmp_path / "captions.jsonl"
    line = refused(None, all_)
    assert line == f"--captions: {file}: is a JSON array; write one object a line to a file that ends with .jsonl"
    assert refused(None, {"file_name": name}, 3).startswith(f"--captions: {file}: cannot be read (")
    assert refused(None, {"file_name": name}, 3).endswith(
        "; give CSV, one JSON object a line (.jsonl) or Parquet (.parquet), in UTF-8"
    )
    assert refused(" ").startswith("--caption: is empty")
    assert refused("caf\udce9").startswith("--caption: ")
    assert f"gives {name} two captions" in refused(None, *all_, {"file_name": name, "text": "b"})
    assert "file_name is ['a', 'b'] in a row" in refused(None, *all_, {"file_name": ["a", "b"], "text": "b"})
    for bad_text, words in (("\ud800", f"the caption of {name} holds half a character"), ("", f"no caption ({name})")):
        assert words in refused(None, {"file_name": name, "text": bad_text}, *all_[1:])


def test_a_latent_that_is_not_finite_names_its_image(pixels: Path, sdxl: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(sdxl, tmp_path / "broken"))
    (file,) = (broken / "vae").glob("*.safetensors")
    weights = load_file(file)
    weights["quant_conv.bias"][0] = torch.nan
    save_file(weights, file)
    line = bad("prepare", tmp_path / "out", "--from", pixels, "--latents", broken)
    assert line.startswith(f"error: {names_of(pixels)[0]}: ")
    assert "not finite" in line
    assert "fp16 VAE" in line


def test_what_cannot_be_encoded_is_refused(
    pixels: Path, pictures: Path, latents: Path, sdxl: Path, tmp_path: Path
) -> None:
    def refused(origin: Path, *options: object) -> str:
        return bad("prepare", tmp_path / "out", "--from", origin, "--latents", sdxl, *options)

    grey = pixel_store(tmp_path / "grey", pictures, channels=1)
    assert "data.channels=3" in refused(grey)
    odd = pixel_store(tmp_path / "odd", pictures, size=18)
    assert "sides of 18 px are not a multiple of 4 px" in refused(odd)
    assert "data.image_size=16" in refused(odd)
    assert "holds latents; give the store of the clean images" in refused(latents)
    good("prepare", tmp_path / "noisy", "--from", pixels, "--observed-only", 0.5)
    assert "holds noisy observations only" in refused(tmp_path / "noisy")
    assert refused(pixels, "--observed-only", 50) == (
        f"error: --observed-only: 50 is above the noise levels of {sdxl}; use 14.61 at most"
    )
    assert "--drop-duplicates" in refused(pixels, "--drop-duplicates")
    assert "keep one of them" in refused(pixels, "--caption", "x", "--captions", "y")
    line = bad("prepare", tmp_path / "out", "--latents", sdxl)
    assert line.startswith("error: --latents: ")
    assert "add --from STORE" in line
    assert "only --latents reads them" in bad("prepare", tmp_path / "out", "--from", pixels, "--caption", "x")
    assert "holds latents" in bad("measure", "--generated", pictures, "--train", latents, "--heldout", latents)
    assert "holds latents" in bad("init", latents, "--out", tmp_path / "first.yaml")
    plain = folder_of_pictures(tmp_path / "plain")
    (plain / "metadata.csv").unlink()
    assert "has no captions; --caption TEXT gives all images one" in refused(pixel_store(tmp_path / "mute", plain))
    assert read_info(tmp_path / "mute").count == PICTURES


ENCODER, VAE = "text_encoder_2/model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TOKENS = "tokenizer/tokenizer.json"
Weights = dict[str, torch.Tensor]


def changed(file: Path, change: Callable[[Weights], Weights]) -> None:
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def without_first(found: Weights) -> Weights:
    return dict(sorted(found.items())[1:])


def first_cut(found: Weights) -> Weights:
    name = min(found)
    return found | {name: found[name][1:].clone()}


def adapted(found: Weights) -> Weights:
    return {name.replace("q_proj.", "q_proj.base_layer."): value for name, value in found.items()}


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (ENCODER, lambda file: changed(file, adapted), "was saved with adapters inside; call unload_lora_weights()"),
        (ENCODER, lambda file: changed(file, without_first), "its weights do not fit its config.json"),
        (ENCODER, lambda file: changed(file, lambda found: found | {"x": torch.ones(1)}), "(x is unexpected)"),
        (ENCODER, lambda file: changed(file, first_cut), "is mismatched)"),
        (ENCODER, lambda file: changed(file, lambda f: {k: v * torch.nan for k, v in f.items()}), "that are not finite"),
        (ENCODER, lambda file: file.write_bytes(file.read_bytes()[:-9]), "damaged (the file is cut off)"),
        (ENCODER, lambda file: file.rename(file.with_name("pytorch_model.bin")), "pickled weights are not read"),
        (ENCODER, lambda file: file.unlink(), "holds no model.safetensors; download or save"),
        (ENCODER, lambda file: shutil.rmtree(file.parent), "cannot be read"),
        (TOKENS, lambda file: shutil.rmtree(file.parent), "no vocabulary"),
        (TOKENS, lambda file: file.write_text("{"), "cannot be loaded (JSONDecodeError"),
        (TOKENS, lambda file: file.write_text("{}"), "cannot be loaded (KeyError"),
        (TOKENS, lambda file: (file.parent / "tokenizer_config.json").unlink(), "captions of up to 1e+30 tokens"),
        (VAE, lambda file: changed(file, without_first), "its weights do not fit its config.json"),
        (VAE, lambda file: changed(file, first_cut), "is mismatched)"),
    ],
)  # fmt: skip
def test_a_broken_component_is_refused_in_a_line_that_names_its_folder(
    file: str, change: Callable[[Path], None], words: str, sdxl: Path, pixels: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(sdxl, tmp_path / "base"))
    change(broken / file)
    line = bad("prepare", tmp_path / "out", "--from", pixels, "--latents", broken, "--caption", "x")
    assert line.startswith(f"error: {(broken / file).parent}")
    assert words in line
    assert "again" in line or "save_pretrained" in line
    assert not (tmp_path / "out").exists()


def test_a_component_of_another_library_is_refused(sdxl: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(sdxl, tmp_path / "base"))
    index = other / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"text_encoder": ["nowhere", "Encoder"]}))
    with pytest.raises(
        UserError, match=r"index\.json: text_encoder is \['nowhere', 'Encoder'\], which is no text encoder"
    ):
        embed(open_base(other), ["x"], ["x"])


def test_text_encoders_have_a_precision_and_names_of_their_own(sdxl: Path, tmp_path: Path) -> None:
    """Half precision beside a UNet in full precision; weights named as in SDXL's own files, with their `position_ids`."""
    half = Path(shutil.copytree(sdxl, tmp_path / "base"))
    for folder in ("text_encoder", "text_encoder_2"):
        found = load_file(half / folder / "model.safetensors")
        (half / folder / "model.safetensors").unlink()
        prefix = "" if any(name.startswith("text_model.") for name in found) else "text_model."
        named = {f"{prefix}{name}": value.half() for name, value in found.items()}
        named["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(named, half / folder / "model.fp16.safetensors", metadata={"format": "pt"})
    whole, again = (embed(open_base(base), ["x"], ["x"]) for base in (sdxl, half))
    for name in whole:
        torch.testing.assert_close(whole[name], again[name], rtol=0.02, atol=0.02)


def test_parts_of_captions_do_not_matter(sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, words = open_base(sdxl), ["a", "b c", "d"]
    whole = embed(base, words, words)
    monkeypatch.setattr("ambient_sweep.latent.captions.PART", 3)
    for name, table in embed(base, words, words).items():
        torch.testing.assert_close(table, whole[name])


def test_a_third_text_encoder_is_read_too(sd3: Path, tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    base = Path(shutil.copytree(sd3, tmp_path / "base"))
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=514, **sizes)).save_pretrained(base / "text_encoder_3")
    shutil.copytree(base / "tokenizer", base / "tokenizer_3")
    index = base / "model_index.json"
    more = {"text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer_3": ["transformers", "CLIPTokenizer"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | more))
    table = embed(open_base(base), ["x"], ["x"])
    theirs = pipeline(base)
    torch.testing.assert_close(table["prompt"][0], theirs.encode_prompt(["x", ""], None, None)[0][0])
    assert (table["prompt"][0, -1] != 0).any()
