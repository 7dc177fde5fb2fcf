"""Package versions and code revision behind a result."""

import contextlib
import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ambient-sweep", "torch", "ray", "optuna", "timm", "clean-fid", "numpy", "scipy", "pyarrow", "scikit-learn")
REVISION = "AMBIENT_SWEEP_REVISION"  # in the environment of a submitted job, whose copy of the package has no git


@functools.cache
def versions() -> dict[str, str]:
    """Python's and the packages' versions; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@functools.cache
def code_revision() -> str | None:
    """The git commit of this package, with "+changes" where its files differ from it; None outside a checkout of it, unless
    REVISION in the environment names it."""
    here = Path(__file__)
    asked = ["ls-files", "--error-unmatch", here.name], ["rev-parse", "HEAD"], ["status", "--porcelain", "."]
    try:
        answers = [
            subprocess.run(["git", "-C", here.parent, *words], capture_output=True, text=True, check=True)
            for words in asked
        ]
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git on this machine, or no checkout
        return os.environ.get(REVISION) or None
    _, commit, changes = (answer.stdout.strip() for answer in answers)
    return f"{commit}+changes" if changes else commit
