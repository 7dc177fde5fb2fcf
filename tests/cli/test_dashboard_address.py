"""What does not answer as a Ray dashboard does, and what cannot be a sweep: one line each, within seconds."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import bad
from pathspec import PathSpec

from ambient_sweep.cli import jobs

ROOT = Path(__file__).parents[2]
ANSWERS = {
    "html": (200, b"<html>"),
    "a list": (200, b"[1]"),
    "a number": (200, b"3"),
    "other JSON": (200, b'{"version": 1}'),
    "an error": (500, b"{}"),
    "a loop": (302, b""),
    "nothing": (0, b""),
}


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a server that answers as the first part of the path says."""
    silent = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = ANSWERS[self.path.split("/")[1].replace("-", " ")]
            if not status:
                silent.wait()
                return
            self.send_response(status)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        silent.set()
        found.shutdown()


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_no_dashboard_is_named(server: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ANSWER_SECONDS", 1)
    address = f"{server}/{answer.replace(' ', '-')}"
    for words in (("logs", "x-0a1b2c"), ("submit", ROOT / "search_spaces" / "digits.yaml", "--storage", "/runs")):
        line = bad(*words, "--address", address)
        assert line.startswith(f"error: --address: no Ray dashboard answers at {address}; start a head")


class Lost:
    """A job's client whose cluster is lost while its log is read."""

    def get_job_info(self, job: str) -> SimpleNamespace:
        return SimpleNamespace(submission_id=job, metadata={jobs.RUN: "/runs/x"})

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "a line\n"
        raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")


def test_a_head_lost_under_logs_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_client", lambda address: nullcontext(Lost()))
    monkeypatch.setattr(jobs, "_find", lambda client, which: client.get_job_info(which))
    line = bad("logs", "x-0a1b2c", "--address", "http://127.0.0.1:1", code=1)
    assert line.startswith("error: job x-0a1b2c: the cluster at http://127.0.0.1:1 answers no more; once it does, `")
    assert line.endswith("submit /runs/x` resumes it")


@pytest.mark.parametrize("base", ["3", "hello", "[1]"])
def test_a_base_that_is_no_mapping_is_named(tmp_path: Path, base: str) -> None:
    (tmp_path / "x.yaml").write_text(f"base: {base}\nspace: {{observed.sigma: {{uniform: [0.1, 0.5]}}}}\n")
    assert "x.yaml: base" in bad("submit", tmp_path / "x.yaml", "--storage", "/runs")


def test_secrets_never_travel_with_the_working_directory() -> None:
    """Ray reads the file by the rules of git."""
    left = PathSpec.from_lines("gitignore", (ROOT / ".rayignore").read_text().splitlines())
    secrets = [
        ".env", ".env.local", "a/.env", ".git-credentials", ".pgpass", ".docker/config.json", ".huggingface/token",
        "kubeconfig", "kubeconfig.yaml", "service-account.json", "id_ecdsa", "a/b.p12", "secret.yaml", "secrets/x",
        "credentials.json", ".aws/credentials", "my.pem", "ray-token", ".cache/huggingface/token", "hf_token.txt",
    ]  # fmt: skip
    assert [name for name in secrets if not left.match_file(name)] == []
    needed = ["ambient_sweep/latent/captions.py", "search_spaces/digits.yaml", "pyproject.toml", "base/tokenizer.json"]
    assert [name for name in needed if left.match_file(name)] == []
