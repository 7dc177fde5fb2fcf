"""The positions of a run, in images, at which it is evaluated and its averages are saved."""

from ambient_sweep.config.sections import Config


def evaluated_lengths(config: Config) -> dict[int, float]:
    """Images -> fraction of the run at which a trial is evaluated: the config's lengths up to its stop, and the stop.

    Rising. A teacher is also evaluated at distillation.start, where it ends.
    """
    stop, teacher = config.training.stop, config.distillation.start
    starts = (teacher,) if config.objective.kind == "ambient_distilled" else ()
    lengths = {config.images_at(f): f for f in (*(f for f in (*starts, *config.evaluation.lengths) if f < stop), stop)}
    return dict(sorted(lengths.items()))


def snapshot_images(config: Config) -> tuple[int, ...]:
    """Where training writes snapshots: evenly over the run, at every evaluated length and where it stops.

    Image counts, rising, each a multiple of the batch size; none for ema.kind=halflife.
    """
    if config.ema.kind != "power":
        return ()
    evenly = (i / config.ema.snapshots for i in range(1, config.ema.snapshots + 1))
    last = config.length
    wanted = {config.images_at(f) for f in (*evenly, *config.evaluation.lengths)} | {last}
    return tuple(sorted(images for images in wanted if images <= last))
