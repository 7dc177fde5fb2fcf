"""Dockerfile, SkyPilot task, Ray's cluster launcher and the commands in the files of cluster/. No cloud is reached."""

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import ray
import yaml
from jsonschema import Draft202012Validator

from ambient_sweep.cli.group import commands

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "cluster"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix not in (".md", ".dockerignore"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_headed_by_the_command_that_uses_it(path):
    lines = path.read_text().splitlines()
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    assert any(re.match(rf"#   .*cluster/{path.name}", line) for line in head)


def sweeps() -> list[tuple[str, list[str]]]:
    found = []
    for path in [*FOLDER.iterdir(), ROOT / "docs" / "cluster.md"]:
        for words in re.findall(r"ambient-sweep ((?:run|resume|submit) [^`;#\n]*)", path.read_text()):
            found.append((path.name, shlex.split(words)))
    return found


def test_the_sweeps_that_files_start_are_commands_of_this_version():
    assert len(sweeps()) >= 8
    for place, (verb, *words) in sweeps():
        command = commands.commands[verb]
        command.make_parser(click.Context(command)).parse_args(words)  # raises for an unknown option
        paths = words[:1] if verb == "resume" else [word for word in words if "sweep.yaml" in word and verb == "run"]
        assert all(path.startswith(("/shared/", "s3://")) for path in paths), place


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "hadolint"
    return subprocess.run([program, path], capture_output=True, text=True, check=False)


def test_the_dockerfile_is_clean(tmp_path):
    checked = hadolint(FOLDER / "Dockerfile")
    assert (checked.returncode, checked.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN pip install ray\n")
    assert hadolint(tmp_path / "Dockerfile").returncode != 0


def test_the_image_copies_what_its_ignore_file_lets_through():
    text = (FOLDER / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.+)", text, re.MULTILINE) for word in line.split()[:-1]}
    first, *allowed = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()[1:]
    assert first == "*"
    assert {line[1:] for line in allowed if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    assert text.index("USER 1000") > text.rindex("RUN ")


def test_everything_runs_the_version_of_ray_that_is_pinned():
    (version,) = re.findall(r"^ray==(.+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert yaml.safe_load((FOLDER / "raycluster.yaml").read_text())["spec"]["rayVersion"] == version


def test_skypilot_parses_the_task(monkeypatch):
    sky = pytest.importorskip("sky", reason="skypilot is not installed")
    monkeypatch.chdir(ROOT)
    task = sky.Task.from_yaml("cluster/skypilot.yaml")
    assert all(each.use_spot for each in task.resources)
    assert "/shared" in task.storage_mounts
    assert task.workdir == "."


def test_the_cluster_on_aws_is_what_the_launcher_defines():
    schema = Draft202012Validator(
        json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    )
    config = yaml.safe_load((FOLDER / "aws.yaml").read_text())
    assert [error.message for error in schema.iter_errors(config)] == []
    assert not schema.is_valid(config | {"max_worker": 8})
    head, worker = (config["available_node_types"][name]["node_config"] for name in (config["head_node_type"], "gpu"))
    assert worker == head | {"InstanceType": "g6.2xlarge", "InstanceMarketOptions": {"MarketType": "spot"}}
    options = " ".join(config["docker"]["run_options"])
    (token,) = config["file_mounts"]
    assert f"--env RAY_AUTH_MODE=token --env RAY_AUTH_TOKEN_PATH={token}" in options
    assert "--volume /shared:/shared" in options
