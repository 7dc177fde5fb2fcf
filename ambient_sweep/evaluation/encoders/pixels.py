"""The pixels themselves as features, for small images."""

from torch import Tensor

from ambient_sweep.errors import UserError

PIXELS_LIMIT = 3 * 64 * 64


class PixelEncoder:
    """The native pixels in [-1, 1], flattened. Raises UserError for images of more than 12,288 values."""

    name = "pixels"
    batch = 4096

    def __call__(self, images: Tensor) -> Tensor:
        if images[0].numel() > PIXELS_LIMIT:
            raise UserError(
                f"evaluation.distances: fd_pixels takes at most {PIXELS_LIMIT} values per image, these have "
                f"{images[0].numel()}; use fd_lite0@64 or fd_lite0@224"
            )
        return images.flatten(1).float() / 127.5 - 1
