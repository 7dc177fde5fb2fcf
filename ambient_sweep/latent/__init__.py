"""Latent diffusion models in diffusers' folders, read offline and from safetensors alone; needs the extra `latent`."""
