"""Writes a store of latents: the images of a pixel store, encoded once, or noisy observations of these alone."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from ambient_sweep import __version__, rng
from ambient_sweep.data import store
from ambient_sweep.data.dataset import fingerprint_of
from ambient_sweep.errors import UserError
from ambient_sweep.latent import require_extra
from ambient_sweep.latent.base import Base, open_base
from ambient_sweep.latent.captions import captions_of, embed
from ambient_sweep.latent.codec import Codec
from ambient_sweep.storage import sha256
from ambient_sweep.terminal import advance

BLOCK = 64  # images encoded between two writes


def prepare_latents(
    out: Path, origin: Path, folder: Path, *,
    caption: str | None = None, captions: Path | None = None, observed_sigma: float | None = None, device: str = "cpu",
) -> store.StoreInfo:  # fmt: skip
    """Writes the store `out` of the latents of the store `origin` for the base in `folder`, or nothing. Raises UserError.

    Split and names are those of `origin`; captions, as `captions_of` finds them, are the classes. observed_sigma: writes
    observations of the training images at this level, with noise that nobody can draw again, and no clean latent.
    """
    require_extra()
    base, info = open_base(folder), store.verify_store(origin)
    if observed_sigma is not None and observed_sigma > base.sigmas[-1]:
        what = f"{observed_sigma:g} is above the noise levels of {folder}"
        raise UserError(f"--observed-only: {what}; use {base.highest:g} at most")
    images = store.open_store(origin)
    _check_images(origin, info, base)
    rows = np.flatnonzero(np.isin(images.index, np.concatenate([images.train_index, images.heldout_index])))
    names = [images.names[row] for row in rows.tolist()]
    texts = captions_of(images, caption, captions)
    classes, example, labels = np.unique([texts[row] for row in rows], return_index=True, return_inverse=True)
    embeddings = embed(base, classes.tolist(), [names[place] for place in example], device)
    kept = np.ones(len(rows), dtype=bool)
    if observed_sigma is not None:
        kept = np.isin(images.index[rows], images.train_index)
    codec, content = Codec(base, device), hashlib.sha256()
    with store.new_store(out) as new:
        with (new / store.IMAGES_FILE).open("wb") as file:
            for start in range(0, len(rows), BLOCK):
                part = slice(start, start + BLOCK)
                latents = codec.encode(images.pixels[rows[part]], names[part]).numpy()
                content.update(latents.data)
                latents = latents[kept[part]]
                if observed_sigma is not None:
                    latents = (latents + observed_sigma * rng.secret_normal(latents.shape)).astype("<f4")
                file.write(latents.data)
                advance("encoding images", min(start + BLOCK, len(rows)), len(rows))
        save_file(embeddings, new / store.EMBEDDINGS_FILE)
        indices = {"train_index": images.train_index, "heldout_index": images.heldout_index}
        for name, index in ({"index": images.index[rows[kept]], "labels": labels[kept]} | indices).items():
            np.save(new / f"{name}.npy", index)
        made = None
        if observed_sigma is None:
            (new / store.NAMES_FILE).write_text(json.dumps(names))
            shutil.copy(origin / store.DUPLICATES_FILE, new)
        else:
            made = store.ObservedInfo(sigma=observed_sigma, fingerprint=sha256(new / store.IMAGES_FILE)[:16])
        side, hashed = info.shape[1] // base.factor, content.hexdigest()
        shape = (base.channels, side, side)
        changes = {
            "version": __version__, "count": int(kept.sum()), "shape": shape, "encoding": "signed",
            "classes": tuple(classes.tolist()), "content_sha256": hashed, "observed": made,
            "fingerprint": fingerprint_of(hashed, shape, images.train_index, images.heldout_index),
            "latent": store.LatentInfo(
                pixels=info.fingerprint, base=base.key, vae=base.vae_key, factor=base.factor
            ),
            "files": {
                each.name: store.FileInfo(bytes=each.stat().st_size, sha256=sha256(each)) for each in sorted(new.iterdir())
            },
        }  # fmt: skip
        if made is not None:  # no name of an image
            without = {"corrupt": {"count": info.corrupt["count"]}, "passed": {"count": info.passed.get("count", 0)}}
            changes |= {"kind": "observed", "source": {"source": info.source["source"]}, **without}
        found = info.model_copy(update=changes)
        (new / store.INFO_FILE).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return found


def _check_images(path: Path, info: store.StoreInfo, base: Base) -> None:
    """Raises UserError for a store whose images the base's VAE does not take."""
    channels, side, _ = info.shape
    if info.latent is not None or info.observed is not None:
        what = "latents" if info.latent is not None else "noisy observations only"
        raise UserError(f"--from: {path} holds {what}; give the store of the clean images")
    if channels != 3:
        raise UserError(f"--from: {path} holds grey images; prepare them with data.channels=3, which the VAE takes")
    if "sigma.npy" in info.files:
        cure = "prepare the images without data.sigma_column"
        raise UserError(f"--from: {path} has noise levels of pixels, which are not those of latents; {cure}")
    if side % (step := base.factor * base.divisor):
        near = f"data.image_size={side // step * step or step}"
        raise UserError(
            f"--from: {path}: sides of {side} px are not a multiple of {step} px, by which {base.folder} divides them "
            f"(VAE {base.factor}, {base.network.name} {base.divisor}); prepare the images with {near}"
        )


def check_latents(info: store.StoreInfo, base: Base) -> None:
    """Raises UserError where a store does not hold the latents of `base`, those of its VAE and for its captions."""
    cure = f"prepare them with `ambient-sweep prepare OUT --from STORE --latents {base.folder}`"
    if info.latent is None:
        raise UserError(f"data.path: holds images, but model.kind=lora trains on latents; {cure}")
    if info.latent.vae != base.vae_key:
        raise UserError(
            f"model.base: {base.folder} has another VAE than the latents of data.path were made with; {cure}"
        )
    if info.latent.base != base.key:
        raise UserError(f"model.base: {base.folder} is not the base that data.path was prepared for; {cure}")
