"""What a training costs in network passes, which do not depend on the machine."""

from ambient_sweep.config.sections import Config


def step_cost(config: Config) -> float:
    """Network passes of a step with consistency, or of a distilled step, over those of a plain one.

    A backward pass counts as two forward ones; through frozen weights, which get no gradient, as one.
    """
    c, trained = config.consistency, 2 if config.model.kind == "lora" else 3
    if config.objective.kind == "ambient_distilled":  # generator, fake trained; generator trained, two frozen
        return (config.distillation.ratio * (1 + 3) + 3 + 2 * 2) / 3
    per_image = 1 + c.draws * (c.chain_steps - 1) + trained * c.draws
    return 1 + c.batch_share * per_image / trained


def plain_images(config: Config, images: int) -> int:
    """How many images of ambient training need as many network passes as the first `images` of this training."""
    starts = {"ambient_consistency": config.consistency.start, "ambient_distilled": config.distillation.start}
    start = starts.get(config.objective.kind, 1.0)
    if config.objective.kind == "ambient_consistency" and config.consistency.weight == 0:
        start = 1.0
    dearer = max(0, images - (config.images_at(start) if start > 0 else 0))
    return round(images + dearer * (step_cost(config) - 1))
