"""The default measures say what was planted, on grey digits and on patches of colour photographs."""

import json

import numpy as np
import planted
import pytest

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.evaluator import FullEvaluation, Report
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.reference import RealImages
from ambient_sweep.evaluation.required_images import all_measures, with_similarity

PIXELS, DIGITS, PATCHES = (
    with_similarity(EvaluationConfig(distances=(distance,), fidelity=distance))
    for distance in ("fd_pixels", "fd_lite0@32", "fd_lite0@64")
)
COPIES = ("mem_excess", "mem_local_excess", "mem_ratio", "sim_excess")


def evaluation(
    real: planted.Real, config: EvaluationConfig = PIXELS, *, without: tuple[str, ...] = ()
) -> FullEvaluation:
    train, heldout = ImageSet.of("--train", real.train), ImageSet.of("--heldout", real.heldout)
    names = all_measures(config, without)
    return FullEvaluation(RealImages.of(train, heldout), config, names)


def generated(images: planted.Pixels) -> ImageSet:
    return ImageSet.of("--generated", images)


Reports = dict[str, Report]


@pytest.fixture(scope="session", params=["digits", pytest.param("patches", marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest) -> tuple[str, Reports]:
    real = getattr(planted, request.param)()
    measured = evaluation(real, DIGITS if request.param == "digits" else PATCHES)
    return request.param, {case.name: measured.report(generated(case.images)) for case in planted.cases(real)}


def measure(report: Report, name: str) -> Measure:
    return next(row.measure for row in report.rows if row.name == name)


def nulls(report: Report) -> dict[str, float]:
    return {row.name: row.null.value for row in report.rows if row.null is not None}


def test_a_perfect_generator_is_at_the_floor_and_copies_nothing(found: tuple[str, Reports]) -> None:
    report = found[1]["real"]
    for name in (*COPIES, "mem_excess_flips", "mem_ratio_flips"):
        low, high = measure(report, name).low, measure(report, name).high
        assert low <= 0 <= high
    assert report.rows[0].measure.value < 1.15 * nulls(report)[report.rows[0].name]
    assert abs(measure(report, "kid").value) < 0.05
    for name in ("precision", "recall", "density", "coverage"):
        assert measure(report, name).value == pytest.approx(nulls(report)[name], abs=0.1)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_exact_copies_are_counted(found: tuple[str, Reports], share: float) -> None:
    report = found[1][f"copies {share:.0%}"]
    for name in (*COPIES, "mem_excess_flips", "mem_ratio_flips"):
        assert measure(report, name).value == pytest.approx(share, abs=0.0105)
        low, high = measure(report, name).low, measure(report, name).high
        assert low - 0.01 <= share <= high + 0.01  # unseen images below the threshold come on top, or are missing
        assert share < 0.05 or low > 0
    assert report.rows[0].measure.value < 1.15 * found[1]["real"].rows[0].measure.value  # fidelity does not see them


def test_copies_with_noise(found: tuple[str, Reports]) -> None:
    kind, reports = found
    for sigma, least in ((0.05, 0.09), (0.1, 0.08), (0.2, 0.02)) if kind == "digits" else ((0.05, 0.02), (0.1, 0.01)):
        report = reports[f"copies 10% + noise {sigma:g}"]
        best = max(measure(report, name).value for name in ("mem_excess", "mem_local_excess", "mem_ratio"))
        assert least < best < 0.11
    # half of the patches are plain sky: with noise they are no image's copy any more, and the threshold is the sky's
    assert (measure(reports["copies 10% + noise 0.05"], "mem_excess").value > 0.09) == (kind == "digits")


def test_flipped_copies_are_counted_with_flips_alone(found: tuple[str, Reports]) -> None:
    report = found[1]["flipped copies 10%"]
    for name in ("mem_excess_flips", "mem_ratio_flips"):
        assert measure(report, name).value == pytest.approx(0.1, abs=0.01)
    for name in ("mem_excess", "mem_local_excess", "mem_ratio"):
        assert measure(report, name).value < 0.02


@pytest.mark.parametrize("case", ["shrunk modes", "dropped classes", "blur"])
def test_faults_of_fidelity_are_seen_and_are_no_copies(found: tuple[str, Reports], case: str) -> None:
    real, report = found[1]["real"], found[1][case]
    assert report.rows[0].measure.value > real.rows[0].measure.value
    for name in ("recall",) if case == "blur" else ("recall", "coverage"):
        assert measure(report, name).value < measure(real, name).value - 0.02
    for name in (*COPIES, "mem_excess_flips", "mem_ratio_flips"):
        assert measure(report, name).value < 0.02


def test_every_number_names_its_encoder_its_seed_and_its_n(found: tuple[str, Reports]) -> None:
    report = found[1]["real"]
    document = json.loads(json.dumps([row.dump() for row in report.rows]))
    assert [row["name"] for row in document[1:]] == [*all_measures(DIGITS)[1:]]
    for row in document:
        assert row["seed"] == 0
        assert row["n"] > 0
        assert row["low"] <= row["value"] <= row["high"]
        assert row["encoder"] in ("lite0@32", "lite0@64", None)
    (histogram,) = report.histograms.values()
    assert sum(histogram["generated"]) == measure(report, "mem_ratio").n
    assert sum(histogram["heldout"]) in (600, 500)


def test_the_nearest_pair_comes_first() -> None:
    real = planted.digits()
    measured = evaluation(real)
    real.fresh[17] = real.train[5]
    assert [int(places[0]) for places in measured.report(generated(real.fresh[:150])).nearest] == [17, 5]


@pytest.mark.parametrize(
    ("train", "heldout", "said"),
    [
        (600, 50, r"mem_excess needs at least 99 held-out images, there are 50; .*--without mem_excess"),
        (1, 600, "--train: evaluation needs at least 2 images, found 1; add"),
        (600, 1, "--heldout: evaluation needs at least 2 images, found 1; add"),
        (600, 0, r"--heldout: .* found 0 \(9 others are training images too\)"),
    ],
)
def test_too_few_images_are_refused_in_a_line(train: int, heldout: int, said: str) -> None:
    real = planted.digits()
    own, unseen = real.train[:train], real.heldout[:heldout] if heldout else real.train[:9]
    with pytest.raises(UserError, match=said):
        evaluation(planted.Real(own, unseen, real.fresh, real.classes))


def test_generated_sets_that_cannot_be_measured_are_refused_in_a_line() -> None:
    real = planted.digits()
    with pytest.raises(UserError, match="--without: fid is not measured"):
        evaluation(real, without=("fid",))
    whole = evaluation(real)
    with pytest.raises(UserError, match="fd_pixels needs at least 2 generated images, there are 1"):
        whole.report(generated(real.fresh[:1]))
    with pytest.raises(UserError, match="--train: images are 8x8 grey, those of --generated 16x16 RGB"):
        whole.report(generated(planted.patches().fresh))
    few = planted.Real(real.train[:12], real.heldout[:10], real.fresh, real.classes)
    left_out = ("mem_excess", "mem_excess_flips", "mem_local_excess", "sim_excess")
    assert measure(evaluation(few, without=left_out).report(generated(real.fresh[:8])), "mem_ratio").n == 8


def test_held_out_images_that_look_like_training_images_are_warned_of() -> None:
    real = planted.digits()
    near = real.heldout.copy()
    near[:60] = np.clip(real.train[:60].astype(int) + 1, 0, 255)
    report = evaluation(planted.Real(real.train, near, real.fresh, real.classes)).report(generated(real.fresh))
    assert any("look like copies of training images" in line for line in report.warnings)
    assert not any("look like copies" in line for line in evaluation(real).report(generated(real.fresh)).warnings)
