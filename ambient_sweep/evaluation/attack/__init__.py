"""Memorization of the model itself, beside its samples: restoring damaged training images, and denoising them too well."""
