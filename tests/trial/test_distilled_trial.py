"""A distilled trial: the teacher's endpoints up to its start, one step of a generator from there on, everywhere."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from small_trials import assert_same, small

from ambient_sweep import rng
from ambient_sweep.cli import commands
from ambient_sweep.config import build_config, dump
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.errors import UserError
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.select import best_config, select
from ambient_sweep.results.model_card import export_model
from ambient_sweep.results.report.frontier_plot import frontier_pictures
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.outcomes import mark
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.training.state import load_model
from ambient_sweep.trial.checkpoint_evaluation import evaluate_checkpoint
from ambient_sweep.trial.evaluations import MOST_MISFIT, misfit, problem_of
from ambient_sweep.trial.records import checkpoint_folder, read_trial, read_trial_evaluations, write_trial
from ambient_sweep.trial.remeasure import remeasure
from ambient_sweep.trial.run import Interrupted, run_trial
from ambient_sweep.trial.samples import generate
from ambient_sweep.trial.setup import check_trials, prepare

DISTILLED = {"objective.kind": "ambient_distilled", "distillation.start": 0.5}
TEACHER, LAST = 800, 1600  # images


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """A sweep's folder with one finished distilled trial, to be read."""
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("distilled") / "sweep")
    run_trial(small(DISTILLED), root, "t")
    return root


@pytest.fixture(scope="module")
def generator(whole):
    return load_model(checkpoint_folder(whole, "t", LAST))


def test_a_teacher_is_measured_as_such_up_to_its_end_and_then_only_its_generator(whole):
    found = [(e.images, e.fraction, e.endpoint, e.main_endpoint) for e in read_trial_evaluations(whole, "t")]
    teacher = [
        (images, images / LAST, endpoint, endpoint == "observed")
        for images in (320, 640, TEACHER)
        for endpoint in ("observed", "zero")
    ]
    assert found == [*teacher, (1120, 0.7, "distilled", True), (LAST, 1.0, "distilled", True)]
    first, *lines = (whole / "trials" / "t" / "log.txt").read_text().splitlines()
    assert first.endswith("a step of distillation costs 3.67 plain steps")
    assert f"{LAST:,} images, sampled in one step: " in [line for line in lines if "sampled" in line][-1]
    assert (whole / "trials/t/evaluations/images-000001600-distilled.png").exists()


def test_a_report_tells_the_teacher_of_a_generator_to_come(whole, root):
    def found(folder, name):
        trial = read_trial(folder, name)
        return [Report.of(e, trial).teacher for e in read_trial_evaluations(folder, name) if e.main_endpoint]

    run_trial(small(DISTILLED, {"training.stop": 0.5}), root, "short")  # whose last model is the teacher
    run_trial(small({"objective.kind": "ambient"}), root, "ambient")
    assert found(whole, "t") == [True, True, True, False, False]
    assert found(root, "short") == [True, True, False]
    assert found(root, "ambient") == [False] * 4


def test_a_sample_is_one_pass_from_the_noise_of_all_samples(generator):
    model, config, meta = generator
    sizes = []

    def counted(x, sigma, labels=None):
        sizes.append(len(x))
        assert (sigma == 2.5).all()
        return model(x, sigma, labels)

    samples = generate(config, counted, meta["shape"], 40, 7, endpoints=config.endpoints(LAST))
    assert sizes == [32, 32]
    noise = rng.normal("sample", 7, range(40), meta["shape"])
    torch.testing.assert_close(samples["distilled"], model(2.5 * noise, torch.full((40,), 2.5)))


def test_an_interrupted_trial_goes_on_to_the_same_bits(whole, root):
    for images in (TEACHER, TEACHER + 32):
        reached = []

        def stop(images=images, reached=reached):
            reached.append(1)
            return len(reached) * 32 >= images

        with pytest.raises(Interrupted):
            run_trial(small(DISTILLED), root, f"t{images}", interrupted=stop)
        run_trial(small(DISTILLED), root, f"t{images}")
        assert_same(root, f"t{images}", whole)


def test_the_teacher_is_one_stage_for_all(root):
    """Ambient training, consistency and a generator: what each trains itself, and whose evaluations it has."""
    stages, executed = Stages(root), []
    for name, changes in {"g": DISTILLED, "other": DISTILLED | {"distillation.lr": 1e-3}, "c": {"consistency.start": 0.5},
                          "a": {"objective.kind": "ambient"}}.items():  # fmt: skip
        executed.append(run_trial(small(changes), root, name, stages=stages).images_executed)
    assert executed == [LAST, LAST - TEACHER, LAST - TEACHER, LAST - TEACHER]
    first, second = (
        {(e.images, e.endpoint): e.measures for e in read_trial_evaluations(root, n) if e.images <= 640} for n in "gc"
    )
    assert first == second


def test_a_checkpoint_is_measured_without_what_a_generator_cannot_do(generator, whole, tmp_path):
    model, config, meta = generator
    found = evaluate_checkpoint(model, config, LAST, meta["data_fingerprint"])
    values = {row.name: row.measure.value for row in found.samples["distilled"].rows}
    recorded = read_trial_evaluations(whole, "t")[-1]
    assert recorded.endpoint == "distilled"
    assert {name: values[name] for name in recorded.measures} == {n: m.value for n, m in recorded.measures.items()}
    assert found.model == ()
    with pytest.raises(UserError, match="attack its teacher, checkpoint images-000000800"):
        evaluate_checkpoint(model, config, LAST, meta["data_fingerprint"], attack_folder=tmp_path)
    teacher = load_model(checkpoint_folder(whole, "t", TEACHER))[0]
    assert list(evaluate_checkpoint(teacher, config, TEACHER, meta["data_fingerprint"]).samples) == ["zero", "observed"]


def test_a_checkpoint_is_measured_again_on_fresh_samples(whole, root):
    shutil.copytree(whole / "trials", root / "trials")
    (record,) = remeasure(root, "t", LAST, checkpoint_folder(root, "t", LAST), 5, 24)
    assert (record.endpoint, record.main_endpoint, record.samples) == ("distilled", True, 24)


def test_sample_draws_from_it(whole, tmp_path, capsys):
    folder, command = str(checkpoint_folder(whole, "t", LAST)), commands.commands["sample"]
    command.main([folder, "--count", "3", "--out", str(tmp_path / "a")], standalone_mode=False)
    assert len(list((tmp_path / "a").iterdir())) == 3
    assert "3 images in" in (out := capsys.readouterr().out)
    assert "sampled in one step, seed 1" in out
    with pytest.raises(UserError, match="--endpoint: this model has no endpoint zero; use distilled"):
        command.main([folder, "--endpoint", "zero", "--out", str(tmp_path / "b")], standalone_mode=False)


def test_the_table_picks_it_and_its_config_trains_it_again(whole, root):
    tables = build_tables(whole)
    assert set(tables.evaluations["endpoint"].to_pylist()) == {"zero", "observed", "distilled"}
    assert frontier_pictures(tables.evaluations)["png"]
    only = tables.evaluations.filter(np.array(tables.evaluations["images"]) == 1120)
    choice = select(only, "knee")
    config = best_config(choice)
    assert config.training.stop == 0.7
    assert dump(build_config(dump(config), {"training.stop": 1.0})) == dump(small(DISTILLED))
    run_trial(config, root, "again")
    before, after = (read_trial_evaluations(place, name) for place, name in ((whole, "t"), (root, "again")))
    assert after[-1].measures == next(e.measures for e in before if e.images == 1120)
    assert dataclasses.replace(after[-1], seconds=0).endpoint == "distilled"


def test_the_misfit_is_that_of_the_clean_images_mean_and_variance():
    generator = torch.Generator().manual_seed(0)
    clean = 0.5 + torch.tensor([0.2, 0.4])[:, None] * torch.randn(2, 40_000, generator=generator)
    clean = clean.T[:, None, None, :]  # of variance 0.2 in all
    sigma = torch.where(torch.arange(40_000) % 4 == 0, 0.0, 0.6)
    y = clean + sigma[:, None, None, None] * torch.randn(clean.shape, generator=generator)
    assert misfit(clean.flip(0), y, sigma) == pytest.approx(0, abs=0.03)
    assert misfit(y, y, sigma) == pytest.approx(2 * 0.75 * 0.36 / 0.2, rel=0.03)  # the noise that is left
    assert misfit(clean + 0.1, y, sigma) == pytest.approx(2 * 0.01 / 0.2, abs=0.03)
    assert misfit(clean[:1].expand(40_000, -1, -1, -1), y, sigma) > MOST_MISFIT
    apart = clean + torch.where(sigma > 0, 0.6, -0.6)[:, None, None, None]  # noise levels that follow the content
    assert misfit(apart.flip(0), apart + y - clean, sigma) < 0.03
    sigma[:20_000] = 30.0  # half of the observations say next to nothing
    y[:20_000] += 30.0 * torch.randn(y[:20_000].shape, generator=generator)
    assert misfit(clean, y, sigma) < 0.1
    assert misfit(clean[:1].expand(40_000, -1, -1, -1), y, sigma) > MOST_MISFIT


@pytest.mark.parametrize(("count", "level"), [(20, 1.5), (50, 2.0), (100, 5.0), (20, 0.5)])
def test_noise_that_hides_the_images_is_no_misfit(count, level):
    """Real digits as samples of a perfect generator, and one far off, against few and noisy observations."""
    digits = torch.from_numpy(load_digits().images / 8 - 1).float()[:, None]
    alarms = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(digits), generator=generator)
        seen, samples = digits[order[:count]], digits[order[-500:]]
        y = seen + level * torch.randn(seen.shape, generator=generator)
        alarms += misfit(samples, y, torch.full((count,), level)) > MOST_MISFIT
        assert misfit(10 * samples, y, torch.full((count,), level)) > MOST_MISFIT
    assert alarms <= 2


def test_what_noise_does_to_five_images_and_their_mirror_images_is_no_misfit():
    digits = torch.from_numpy(load_digits().images / 8 - 1).float()[:, None]
    alarms = 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        seen = digits[torch.randperm(len(digits), generator=generator)[:5]]
        samples = torch.cat([seen, seen.flip(3)]).repeat(100, 1, 1, 1)
        y = seen + 1.5 * torch.randn(seen.shape, generator=generator)
        alarms += misfit(samples, y, torch.full((5,), 1.5), flip=True) > MOST_MISFIT
    assert alarms <= 10


@pytest.mark.filterwarnings("error")
def test_two_images_of_two_noise_levels_are_enough():
    y = torch.zeros(2, 1, 4, 4)
    y[1] = 5.0
    assert misfit(torch.zeros(8, 1, 4, 4), y, torch.tensor([0.2, 5.0])) < MOST_MISFIT
    assert misfit(1000 * y.repeat(4, 1, 1, 1), y, torch.tensor([0.2, 5.0])) > MOST_MISFIT


@pytest.mark.parametrize("count", [16, 100, 1000])
@pytest.mark.parametrize("case", ["plain", "mirrored", "in groups", "one in twenty is bright"])
def test_a_perfect_generator_has_no_problem(whole, case, count):
    """Observations of images whose left half is dark; in groups of another brightness each, one after another, as a split
    by group leaves them; samples are the clean images, drawn at random."""
    record, generator = read_trial_evaluations(whole, "t")[-1], torch.Generator().manual_seed(0)
    clean = 0.1 * torch.randn(4000, 1, 4, 4, generator=generator)
    clean[..., :2] -= 0.6
    if case == "in groups":
        clean += torch.linspace(-0.5, 0.5, 4).repeat_interleave(1000)[:, None, None, None]
    if case == "one in twenty is bright":
        clean[::20] += 1.5
    y = clean + 0.2 * torch.randn(clean.shape, generator=generator)
    config = small(DISTILLED, {"data.flip": case == "mirrored"})

    def problem(samples):
        return problem_of(samples, record, ObservedImages(y, torch.full((4000,), 0.2)), config)

    alarms = 0
    for seed in range(40):
        generator.manual_seed(seed)
        samples = clean[torch.randint(4000, (count,), generator=generator)]
        if case == "mirrored":
            turned = torch.rand(count, generator=generator) < 0.5
            samples = torch.where(turned[:, None, None, None], samples.flip(3), samples)
        alarms += problem(samples) is not None
    assert alarms <= (1 if count < 100 else 0)
    assert "mean and variance of its samples differ by " in problem(3 * samples)
    if case != "one in twenty is bright" or count > 100:
        assert problem(samples[:1].expand(count, -1, -1, -1)) is not None


@pytest.mark.parametrize("cause", ["misfit", "recall", None])
def test_an_unusable_generator_is_told_wherever_it_is_recorded(tmp_path, monkeypatch, cause):
    place, whys = (
        "ambient_sweep.trial.evaluations",
        {"misfit": "mean and variance of ", "recall": "its samples resemble "},
    )
    monkeypatch.setattr(f"{place}.MOST_MISFIT", -1.0 if cause == "misfit" else np.inf)
    monkeypatch.setattr(f"{place}.LEAST_RECALL", 2.0 if cause == "recall" else 0.0)
    root, config = tmp_path, small(DISTILLED, {"evaluation.extras": ["recall"]})
    prepare(config, root)
    stages = Stages(root)
    for _ in range(2):  # the second time, what was measured is read
        record = run_trial(config, root, "t", stages=stages)
        assert (record.status, record.ended) == ("completed", True)
    taken = run_trial(build_config(dump(config), {"training.stop": 0.7}), root, "other", stages=stages)
    stopped = dataclasses.replace(record, trial_id="s", status="running")
    write_trial(root, stopped)
    mark(root, SweepTrial("search", {}, trial_id="s"), config, "stopped", "by a rung")
    log, tables = (root / "trials" / "t" / "log.txt").read_text(), build_tables(root)
    problems = tables.evaluations["problem"].to_pylist()
    if cause is None:
        assert {record.reason, taken.reason, *problems} == {None}
        assert "unusable" not in log
        return
    assert record.reason.startswith(f"unusable generator after 1,600 images: {whys[cause]}")
    assert log.count("unusable generator after 1,120 images") == log.count(record.reason) == 1
    assert taken.reason.startswith("unusable generator after 1,120 images: ")
    assert sorted(filter(None, problems)) == sorted([record.reason, taken.reason, taken.reason])
    assert read_trial(root, "s").reason == f"by a rung; {record.reason}"
    (again,) = remeasure(root, "t", LAST, checkpoint_folder(root, "t", LAST), 5, 24)
    assert again.problem == record.reason
    export_model(checkpoint_folder(root, "t", LAST), tmp_path / "model", {})
    assert f"Warning: {record.reason}.\n\nA low value" in (tmp_path / "model" / "README.md").read_text()


def test_a_noise_level_of_an_image_above_the_generators_is_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", image=images, sigma=np.where(np.arange(60) % 2, 0.2, 4.0))
    data = {"data.source": "array", "data.path": str(tmp_path / "a.npz"), "data.sigma_column": "sigma"}
    config = small(DISTILLED, data, {"data.train_size": 40})
    check_trials([high := build_config(dump(config), {"distillation.sigma": 5.0})])
    check_trials([high, build_config(dump(config), {"objective.kind": "ambient"})])
    with pytest.raises(UserError, match=r"distillation\.sigma: 2\.5 must be above the images' noise levels, up to 4"):
        check_trials([high, config])
