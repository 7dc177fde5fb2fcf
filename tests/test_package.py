"""Properties of the package as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_training_and_evaluation_work_without_ray_optuna_and_clean_fid(tmp_path):
    """As on a GPU machine that lacks them: their import fails there."""
    code = f"""
import sys
for name in ("ray", "optuna", "cleanfid", "tensorboardX"):
    sys.modules[name] = None
from pathlib import Path
from ambient_sweep.config import build_config
from ambient_sweep.trial import prepare, run_trial
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


def test_nothing_loads_pickles_or_draws_from_global_generators():
    """Words that would: a plain search, with the few lines that are known to be right."""
    forbidden = ("pickle", "torch.load(", "np.random.seed", "np.random.normal", "torch.randn(", "torch.rand(", "eval(")
    allowed = ("weights_only=True", ".eval()", "never pickle", "no pickle", "generator=", "are pickles")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "ambient_sweep").rglob("*.py"))
        for line in path.read_text().splitlines()
        if any(word in line for word in forbidden) and not any(word in line for word in allowed)
    ]
    assert found == []
