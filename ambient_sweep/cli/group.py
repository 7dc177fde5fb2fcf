"""The group that all commands belong to."""

import click

from ambient_sweep import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True})
@click.version_option(__version__, prog_name="ambient-sweep")
def commands() -> None:
    """Find how much noise protects your training images, and what it costs.

    Trains many ambient diffusion models on a Ray cluster, measures the fidelity and memorization of each, and returns
    the Pareto frontier, the table behind it and the config of your final model.
    """
