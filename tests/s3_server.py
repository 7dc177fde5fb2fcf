"""An S3 server on the loopback interface, as a real process: moto's."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pyarrow import fs

# what the commands read; moto takes any key
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip
ENDPOINT = "AWS_ENDPOINT_URL"


class S3Server:
    """A server that keeps its objects in memory; `bucket` exists."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with log.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                break
            time.sleep(0.1)
        os.environ |= CREDENTIALS | {ENDPOINT: f"http://127.0.0.1:{self.port}"}
        self.system, bucket = fs.FileSystem.from_uri("s3://bucket?allow_bucket_creation=true")
        self.system.create_dir(bucket)

    def url(self, path: str) -> str:
        return f"s3://bucket/{path}"

    def files(self, path: str = "") -> dict[str, bytes]:
        """The contents of all objects below a path, by their path within."""
        base = f"bucket/{path}".rstrip("/")
        found = self.system.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
        return {i.path.removeprefix(f"{base}/"): self.read(i.path) for i in found if i.is_file}

    def read(self, path: str) -> bytes:
        with self.system.open_input_stream(path) as stream:
            return bytes(stream.read())

    def requests(self) -> list[str]:
        return [line.split('"')[1] for line in self.log.read_text().splitlines() if '"' in line]

    def freeze(self) -> None:
        """From now on nothing is answered, until `thaw`."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """The server; in the block, the environment names it and holds credentials."""
    before = dict(os.environ)
    server = S3Server(folder / "s3.log")
    try:
        yield server
    finally:
        server.end()
        for name in {*CREDENTIALS, ENDPOINT}:
            os.environ.pop(name)
        os.environ.update(before)
