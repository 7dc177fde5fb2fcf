"""Properties of the package as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_importing_the_package_brings_nothing_heavy():
    modules = python("import ambient_sweep, sys; print(*sys.modules)").split()
    assert "ambient_sweep" in modules
    assert not {"torch", "ray", "numpy", "pandas", "pydantic"} & set(modules)


@pytest.mark.parametrize("module", ["config", "cli", "results", "sweep.space", "sweep.run"])
def test_what_the_command_line_needs_for_help_brings_no_torch_and_no_ray(module):
    assert (
        python(f"import ambient_sweep.{module}, sys; print('torch' in sys.modules, 'ray' in sys.modules)")
        == "False False"
    )


def test_training_and_evaluation_work_without_ray_optuna_clean_fid_and_the_extra(tmp_path):
    """As on a GPU machine that lacks them: their import fails there."""
    code = f"""
import sys
for name in ("ray", "optuna", "cleanfid", "tensorboardX", "diffusers", "transformers", "peft", "accelerate"):
    sys.modules[name] = None
from pathlib import Path
from ambient_sweep.config import build_config
from ambient_sweep.trial.setup import prepare
from ambient_sweep.trial.run import run_trial
config = build_config({{
    "model": {{"kind": "mlp", "width": 8, "blocks": 1}}, "training.images": 128, "sampling.steps": 2,
    "evaluation": {{"samples": 8, "lengths": [1.0], "distances": ["fd_pixels", "fd_classifier"]}},
}})
root = Path({str(tmp_path)!r})
prepare(config, root)
print(run_trial(config, root, "t").status)
"""
    assert python(code).splitlines()[-1] == "completed"


def test_imports_point_down_the_layers():
    """The layers of docs/architecture.md, and Ray and Optuna in the sweep and the command line alone."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def calls(source):
    """Every call in a module: the dotted name of what is called, and its keyword arguments as text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def complaint(name, keywords):
    """What is wrong with a call, or None."""
    if name.endswith("torch.load") and keywords.get("weights_only") != "True":
        return "unpickles"
    if name.endswith("np.load") and keywords.get("allow_pickle") != "False":
        return "unpickles"
    if name in ("pickle.load", "pickle.loads", "cloudpickle.loads", "eval", "exec"):
        return "runs code"
    if name in ("torch.randn", "torch.rand", "torch.randint", "torch.randperm") and "generator" not in keywords:
        return "draws from the global generator"
    if name.startswith("np.random.") and name not in ("np.random.Philox", "np.random.SeedSequence"):
        return "draws from a stateful generator"
    return None


# Tune hands a callback an exception only as a file, which this process wrote a moment before
TUNES_OWN = "ambient_sweep/sweep/running/faults.py: cloudpickle.loads runs code"


def test_nothing_unpickles_or_draws_from_global_generators():
    found = []
    for path in sorted((ROOT / "ambient_sweep").rglob("*.py")):
        source, place = path.read_text(), path.relative_to(ROOT).as_posix()
        wrong = [f"{place}: {name} {why}" for name, words in calls(source) if (why := complaint(name, words))]
        found += [each for each in wrong if each != TUNES_OWN]
        imported = {node.names[0].name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import)}
        if "pickle" in imported:
            found.append(f"{place}: imports pickle")
    assert found == []


def test_the_search_finds_what_it_is_for():
    source = (
        "torch.load(f)\nnp.load(f)\ntorch.randn(3)\nnp.random.normal()\neval('1')\ntorch.rand(1, generator=g)\nm.eval()"
    )
    assert [name for name, words in calls(source) if complaint(name, words)] == [
        "torch.load", "np.load", "torch.randn", "np.random.normal", "eval",
    ]  # fmt: skip


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def modules_of(source):
    """The top-level modules that a piece of code imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_the_declared_dependencies_are_those_that_are_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["dependencies"], project["optional-dependencies"]["latent"]
    declared, extra = ({canonical(Requirement(text).name) for text in each} for each in texts)
    packages = {module: set(map(canonical, names)) for module, names in metadata.packages_distributions().items()}
    imported = set()
    for path in sorted((ROOT / "ambient_sweep").rglob("*.py")):
        for module in set(modules_of(path.read_text())) - set(sys.stdlib_module_names) - {"ambient_sweep"}:
            owners = packages.get(module, {module}) & (declared | extra)
            assert owners, f"{path.name} imports {module}, which pyproject.toml does not declare"
            imported |= owners
    assert declared == imported - extra
