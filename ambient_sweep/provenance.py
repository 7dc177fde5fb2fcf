"""Package versions and code revision behind a result."""

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ambient-sweep", "torch", "ray", "optuna", "timm", "clean-fid", "numpy", "scipy", "pyarrow", "scikit-learn")


@functools.cache
def versions() -> dict[str, str]:
    """Python's and the packages' versions; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def code_revision() -> str | None:
    """The git commit of this package, with "+changes" where its files differ from it; None outside a checkout of it."""
    folder = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return commit if not git("status", "--porcelain", ".") else f"{commit}+changes"
