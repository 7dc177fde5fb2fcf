"""Latent diffusion models in diffusers' folders, read offline and from safetensors alone; needs the extra `latent`."""

from importlib.util import find_spec

from ambient_sweep.errors import UserError

EXTRA = ("diffusers", "transformers", "peft", "accelerate")


def require_extra() -> None:
    """Raises UserError where the packages of latent models are not installed."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UserError(f"latent models need {', '.join(missing)}: pip install 'ambient-sweep[latent]'")
