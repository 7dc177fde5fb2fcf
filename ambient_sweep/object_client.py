"""The connection to an object store through pyarrow.fs: its URL, and waiting while the store is away."""

import errno
import logging
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from ambient_sweep.errors import UserError

if TYPE_CHECKING:
    from pyarrow import fs

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
TAKEN = f"{'://, '.join(SCHEMES[:-1])}:// or {SCHEMES[-1]}://"  # in words
CURE = "check URL, network, and credentials (and AWS_REGION, for S3) in the environment"
AWAY_SECONDS, TOLD_SECONDS = 900.0, 15.0  # of a store: until it is given up, until a line says so
PAUSE_SECONDS, GIVEN_UP_SECONDS = 2.0, 30.0  # between two tries; in which none is made
REFUSED = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN")
T = TypeVar("T")


class StoreAway(OSError):
    """The store did not answer for too long, or refuses. `filename` is the URL."""


def is_url(text: str) -> bool:
    """Whether this names a place in an object store."""
    return urlsplit(text).scheme in SCHEMES and "://" in text


def refuse_keys(url: str) -> None:
    """Raises UserError, without naming them, for keys in a URL: it stands in records, logs and messages."""
    parts = urlsplit(url)
    if parts.password or (parts.username and parts.scheme == "s3"):
        raise UserError(f"{parts.scheme}://{parts.hostname}: leave keys out of the URL; the environment holds them")


@dataclass
class ObjectClient:
    """The connection to what lies below `url`, which is `files`.

    `silent`: a line said that the store does not answer. `given_up`: when nothing waited for it any longer, by the monotonic
    clock; for GIVEN_UP_SECONDS, in which a command ends, no call is tried, since `why`.
    """

    url: str
    files: "fs.FileSystem"
    silent: bool = False
    given_up: float = -math.inf
    why: str = "does not answer; once it does, `resume` or `train` goes on"

    @classmethod
    def of(cls, url: str) -> "ObjectClient":
        """The client of a URL, without asking the store. Raises UserError for a URL that is none, or that holds keys."""
        from pyarrow import fs

        refuse_keys(url)
        parts = urlsplit(url)
        # a small file by one PUT, in place of three
        single = "allow_delayed_open=true" if parts.scheme == "s3" else ""
        asked = parts._replace(query="&".join(filter(None, (parts.query, single)))).geturl()
        try:
            system, base = fs.FileSystem.from_uri(asked)
        except OSError as error:  # of the store, which is asked for its region
            raise UserError(f"{url}: cannot be used: {_said(error)}; {CURE}") from None
        except (ValueError, NotImplementedError) as error:
            why, cure = _said(error).replace(asked, url), "give s3://BUCKET/FOLDER, with %20 for a space"
            raise UserError(f"{url}: not a URL of an object store: {why}; {cure}") from None
        if not base.strip("/"):
            raise UserError(f"{url}: names no bucket; give {parts.scheme}://BUCKET/FOLDER")
        return cls(url, fs.SubTreeFileSystem(base.rstrip("/"), system))

    def check(self) -> None:
        """Raises UserError, naming the URL, where the store does not answer, refuses, or has no such bucket."""
        bucket = self.files.base_path.partition("/")[0]
        try:
            if self.files.base_fs.get_file_info(bucket).type.name == "NotFound":
                raise UserError(f"{self.url}: there is no bucket {bucket}; make it, or give another URL")
        except OSError as error:
            raise UserError(f"{self.url}: cannot be used: {_said(error)}; {CURE}") from None

    def tried(self, call: Callable[[], T]) -> T:
        """What `call` returns, once the store answers. Raises StoreAway, and FileNotFoundError as it comes."""
        if time.monotonic() - self.given_up < GIVEN_UP_SECONDS:
            raise StoreAway(errno.EIO, self.why, self.url)
        timer = threading.Timer(TOLD_SECONDS, self._say, (True,))
        timer.daemon, end = True, time.monotonic() + AWAY_SECONDS
        timer.start()
        try:
            while True:
                try:
                    result = call()
                    self._say(False)
                    return result
                except FileNotFoundError:
                    raise
                except OSError as error:
                    if time.monotonic() > end or _refuses(error):
                        self.given_up = time.monotonic()
                        why = f"{_said(error)}; once it answers, `resume` or `train` goes on"
                        kind = errno.EACCES if _refuses(error) else errno.EIO
                        raise StoreAway(kind, why, self.url) from None
                time.sleep(PAUSE_SECONDS)
        finally:
            timer.cancel()

    def _say(self, silent: bool) -> None:
        """Says once that the store is silent, and once that it is not any more."""
        if silent != self.silent:
            self.silent = silent
            wait = f"no answer for {TOLD_SECONDS:.0f} seconds; waiting, for {AWAY_SECONDS / 60:.0f} minutes at most"
            logging.getLogger(__name__).warning("%s: %s", self.url, wait if silent else "answers again")


def _said(error: Exception) -> str:
    """What is said of an error of the store."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[?Errno.*?\]? ?|When .*?(?=AWS Error)|curl.*?, | ?\(Request ID:.*?\)|; Details:.*", "", text)


def _refuses(error: OSError) -> bool:
    return isinstance(error, PermissionError) or any(word in str(error) for word in REFUSED)
