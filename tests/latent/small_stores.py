"""A small set of captioned pictures as a folder, its pixel store, and stores of latents of these."""

from pathlib import Path

import numpy as np
from command_line import good
from PIL import Image

PICTURES, SIDE = 48, 16  # half of which train
CAPTIONS = ("a red car", "a blue boat", "grass")


def folder_of_pictures(folder: Path) -> Path:
    """Blocks of random colours with a metadata.csv; returns `folder`."""
    folder.mkdir()
    draw, rows = np.random.default_rng(0), ["file_name,text"]
    for number in range(PICTURES):
        colours = draw.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(colours.repeat(4, 0).repeat(4, 1)).save(folder / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,{CAPTIONS[number % len(CAPTIONS)]}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def pixel_store(out: Path, pictures: Path, size: int = SIDE, channels: int = 3, seed: int = 0) -> Path:
    keys = {"source": "folder", "path": pictures, "image_size": size, "channels": channels, "split_seed": seed}
    good("prepare", out, *(f"data.{key}={value}" for key, value in keys.items()), "data.heldout_size=24")
    return out
