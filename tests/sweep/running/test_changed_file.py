"""A sweep's file is not changed once it has begun: `resume` names the key. Nothing is trained here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import bad
from small_sweeps import small_sweep

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.sweep import run
from ambient_sweep.sweep.space.definition import Sweep

Tree = dict[str, Any]


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep that began and was interrupted."""

    def interrupted(sweep: Sweep, root: Path, echo: object) -> None:
        (root / "trials").mkdir(exist_ok=True)
        raise AmbientSweepError("interrupted")

    monkeypatch.setattr(run, "_run", interrupted)
    with pytest.raises(AmbientSweepError, match="interrupted"):
        run.run_sweep(small_sweep(tmp_path, "points: [{observed.sigma: 0.2}]"), tmp_path / "runs")
    return tmp_path / "runs" / "small"


def change(root: Path, edit: Callable[[Tree], object]) -> None:
    tree = yaml.safe_load((root / "sweep.yaml").read_text())
    edit(tree)
    (root / "sweep.yaml").write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("key", "edit", "now", "was"),
    [
        (
            "space.consistency.start.choice",
            lambda tree: tree["space"]["consistency.start"]["choice"].append(0.9),
            [0.5, 0.75, 0.9],
            [0.5, 0.75],
        ),
        ("space.seed.int", lambda tree: tree["space"].update(seed={"int": [0, 1]}), [0, 1], None),
        ("space.consistency.start.choice", lambda tree: tree["space"].pop("consistency.start"), None, [0.5, 0.75]),
        ("base.training.images", lambda tree: tree["base"].update({"training.images": 6400}), 6400, 3200),
        ("base.sampling.steps", lambda tree: tree["base"].pop("sampling.steps"), 18, 5),
        ("points", lambda tree: tree["points"].clear(), [], [{"observed.sigma": 0.2}]),
        ("controls", lambda tree: tree.update(controls=[{"set": {"seed": 1}}]), [{"set": {"seed": 1}}], []),
        ("baseline.seeds", lambda tree: tree["baseline"].update(seeds=[0, 1]), [0, 1], [0]),
        ("name", lambda tree: tree.update(name="other"), "other", "small"),
    ],
)
def test_the_changed_key_is_named(
    begun: Path, key: str, edit: Callable[[Tree], object], now: object, was: object
) -> None:
    change(begun, edit)
    assert bad("resume", begun, "search.trials=40") == (
        f"error: {begun}/sweep.yaml: {key}: is {now} now, but was {was} when this sweep began; put it back, or `run` the "
        "file under another --name"
    )


def test_search_and_confirm_may_change_and_so_may_how_the_file_is_written(begun: Path) -> None:
    change(begun, lambda tree: tree["search"].update(trials=3))
    (begun / "sweep.yaml").write_text("# a comment\n" + json.dumps(yaml.safe_load((begun / "sweep.yaml").read_text())))
    assert bad("resume", begun, "confirm.top=2", code=1) == "error: interrupted"
    assert bad("resume", begun / "sweep.yaml", code=1) == "error: interrupted", "the file stands for its folder"


def test_without_what_the_sweep_began_with_it_is_not_continued(begun: Path) -> None:
    for damage in ("{", None):
        (begun / ".begun.json").write_text(damage) if damage else (begun / ".begun.json").unlink()
        assert bad("resume", begun) == (
            f"error: {begun}/.begun.json: missing or damaged; restore it, or `run` its sweep.yaml under "
            "another --name, --from this run"
        )


def test_ranges_may_be_wider_where_clean_training_does_not_draw_from_them(begun: Path) -> None:
    assert bad("resume", begun, "space.observed.sigma={uniform: [0.05, 0.8]}", code=1) == "error: interrupted"
    for key, spec, now in (
        ("observed.sigma", "{uniform: [0.2, 0.8]}", "uniform: is [0.2, 0.8] now, but was [0.1, 0.5]"),
        ("observed.sigma", "{uniform: [0.1, 0.5], step: 0.1}", "step: is 0.1 now, but was None"),
        ("consistency.start", "{choice: [0.5, 0.75, 1.0]}", "choice: is [0.5, 0.75, 1.0] now, but was [0.5, 0.75]"),
    ):
        assert f"space.{key}.{now} when this sweep began" in bad("resume", begun, f"space.{key}={spec}")
    assert "write a distribution" in bad("resume", begun, "space.observed.sigma=0.3")
    kind = bad("resume", begun, "space.observed.sigma={loguniform: [0.1, 0.6]}")
    assert kind.startswith(
        f"error: space.observed.sigma: is uniform in {begun}/sweep.yaml; its kind cannot change here"
    )
    assert "training.images: a sweep that has begun" in bad("resume", begun, "training.images=1")
