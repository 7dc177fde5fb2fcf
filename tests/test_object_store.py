"""Working copies of an object store: what is put when, what another process sees, and who holds a run."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid

import boto3
import pytest
from s3_server import ENDPOINT, S3Server

from ambient_sweep import object_store, storage
from ambient_sweep.errors import UserError
from ambient_sweep.object_client import StoreAway
from ambient_sweep.object_store import fetch, fetch_folder, open_url, with_urls
from ambient_sweep.storage import is_locked, locked, new_folder, remove_whole, write_atomic


@pytest.fixture
def url(s3):
    return s3.url(f"{uuid.uuid4().hex}/run")


def elsewhere(url):
    """The copy of another process."""
    object_store._COPIES.pop(url, None)
    return open_url(url)


def test_a_folder_appears_and_disappears_with_its_description(url, s3):
    place = open_url(url) / "stages" / "key" / "evaluation"
    before = len(s3.requests())
    with new_folder(place) as aside:
        for name in ("manifest.json", "zero.json", "model.safetensors", "zero.png"):
            (aside / name).write_text(name)
    written = [r.split()[1].rpartition("/")[2] for r in s3.requests()[before:] if r.startswith("PUT")]
    assert written[-2:] == ["zero.json", "manifest.json"]  # one request each
    assert sorted(written) == ["manifest.json", "model.safetensors", "zero.json", "zero.png"]
    before = len(s3.requests())
    assert remove_whole(place)
    removed = [r.split()[1].rpartition("/")[2] for r in s3.requests()[before:] if "DELETE" in r]
    assert removed[:2] == ["manifest.json", "zero.json"]
    assert s3.files(url.removeprefix("s3://bucket/")) == {}


def test_another_process_sees_what_was_written_and_what_was_removed(url):
    mine = open_url(url)
    write_atomic(mine / "trials/a/trial.json", b"1")
    write_atomic(mine / "trials/b/trial.json", b"2")
    theirs = elsewhere(url)
    assert theirs != mine
    fetch_folder(theirs, "/trial.json")
    assert {p.parent.name: p.read_bytes() for p in theirs.glob("trials/*/*")} == {"a": b"1", "b": b"2"}
    for value in (b"3", b"4"):  # of the same size, within a second
        write_atomic(theirs / "trials/a/trial.json", value)
        fetch(theirs / "trials/a/trial.json")
        assert (theirs / "trials/a/trial.json").read_bytes() == value
    remove_whole(theirs / "trials/b")
    again = elsewhere(url)
    fetch_folder(again)
    assert [str(p.relative_to(again)) for p in again.rglob("*.json")] == ["trials/a/trial.json"]
    remove_whole(again / "trials/a")
    object_store._COPIES[url] = object_store.Copy(
        object_store._COPIES[url].client, theirs, {"trials/a/trial.json": object_store.UNKNOWN}
    )
    fetch_folder(theirs / "trials")
    assert not (theirs / "trials").exists()


@pytest.mark.parametrize("within", ["../../sweep.yaml", "/tmp/elsewhere/sweep.yaml"])
def test_an_object_that_leads_out_of_the_copy_is_refused(url, within):
    client = boto3.client("s3", endpoint_url=os.environ[ENDPOINT])
    client.put_object(Bucket="bucket", Key=f"{url.removeprefix('s3://bucket/')}/{within}", Body=b"")
    with pytest.raises(UserError, match=rf"^{url}: its object {within} leads out of it; remove that$"):
        open_url(url, *object_store.OPENED)


@pytest.fixture(params=[-86_400, 86_400])
def clock_jump(request, monkeypatch):
    """This machine's clock is a day behind or ahead of the store's."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + request.param)


def test_an_object_that_is_replaced_is_seen_whatever_the_clock_says(url, clock_jump):
    places = open_url(url), elsewhere(url)
    copies = [object_store.Copy(object_store.copy_of(places[1]).client, place) for place in places]
    for value in (b"1", b"2", b"3", b"4"):  # of the same size, within a second
        object_store._COPIES[url] = copies[0]
        write_atomic(places[0] / "trial.json", value)
        object_store._COPIES[url] = copies[1]
        fetch(places[1] / "trial.json")
        assert (places[1] / "trial.json").read_bytes() == value


class Racing:
    """A store in which an object is replaced or removed right after it was opened for reading."""

    def __init__(self, files, change):
        self.files, self.changes = files, [change]

    def __getattr__(self, name):
        return getattr(self.files, name)

    def open_input_stream(self, key):
        stream = self.files.open_input_stream(key)
        if self.changes:
            self.changes.pop()()
        return stream


@pytest.mark.parametrize("content", [b"longer than before", b"-", None])
def test_an_object_replaced_while_it_is_read_is_read_whole(url, content):
    mine = open_url(url)
    write_atomic(mine / "trial.json", b"before")
    theirs = elsewhere(url)
    copy = object_store.copy_of(theirs)

    def change():
        if content is None:
            copy.client.files.files.delete_file("trial.json")
        else:
            with copy.client.files.files.open_output_stream("trial.json") as stream:
                stream.write(content)

    copy.client.files = Racing(copy.client.files, change)
    fetch_folder(theirs)
    assert [path.read_bytes() for path in theirs.iterdir()] == ([] if content is None else [content])


def test_a_path_is_pickled_as_its_url(url):
    path = open_url(url) / "trials" / "a"
    code = (
        "import pickle, sys; from ambient_sweep.object_store import fetch; path = pickle.load(sys.stdin.buffer);"
        "fetch(path / 'x.json'); print(path, (path / 'x.json').read_text())"
    )
    write_atomic(path / "x.json", b"there")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(path), capture_output=True, check=True, env=environment
    )
    place, content = done.stdout.decode().split()
    assert (place.endswith("/run/trials/a"), content, place == str(path)) == (True, "there", False)
    assert with_urls(f"{path}: gone; see `{path.parent}`") == f"{url}/trials/a: gone; see `{url}/trials`"


def test_folders_of_killed_processes_are_removed(url, tmp_path, monkeypatch):
    code = "from ambient_sweep.object_store import open_url; import sys, time; print(open_url(sys.argv[1]), flush=True)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", f"{code}; time.sleep(99)", url]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline().startswith(str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    object_store._scratch.__wrapped__()
    assert folder.exists()  # in use
    process.kill()
    process.wait()
    object_store._scratch.__wrapped__()
    assert not folder.exists()


HOLDER = """
import signal, sys, time
from ambient_sweep import storage
from ambient_sweep.object_store import open_url
storage.LEASE_SECONDS, storage.SETTLING_SECONDS = 3.0, 0.1
root = open_url(sys.argv[1])
def end(*_):
    try:
        storage.write_atomic(root / "study.journal", b"of one that was cut off")
    except OSError as error:
        sys.exit(error.strerror)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
with storage.locked(root / ".driver.lock", wait=False):
    print("held", flush=True)
    time.sleep(99)
"""


@pytest.fixture
def holder(url, monkeypatch):
    monkeypatch.setattr(storage, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(storage, "SETTLING_SECONDS", 0.1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", HOLDER, url]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_lease_that_is_renewed_holds_whatever_the_clock_says(url, holder, clock_jump):
    lock = open_url(url) / ".driver.lock"
    assert is_locked(lock)
    with pytest.raises(BlockingIOError), locked(lock, wait=False):
        pass
    holder.kill()
    holder.wait()
    assert not is_locked(lock)


def test_one_process_holds_a_run(url, holder):
    lock = open_url(url) / ".driver.lock"
    time.sleep(4)  # longer than the lease: it is renewed
    assert is_locked(lock)
    with pytest.raises(BlockingIOError), locked(lock, wait=False):
        pass
    threading.Timer(1, holder.terminate).start()
    began = time.monotonic()
    with locked(lock, wait=True):
        assert time.monotonic() - began > 1
        assert holder.wait(timeout=10) == 0
    assert not is_locked(lock)


def test_the_lease_of_a_killed_process_is_free_at_once(url, holder):
    lock = open_url(url) / ".driver.lock"
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with locked(lock, wait=False):
        assert time.monotonic() - began < 2  # the holder was on this machine, and is known to be dead
        assert is_locked(lock)
    assert not is_locked(lock)


def test_the_lease_of_a_lost_machine_runs_out(url, holder):
    lock = open_url(url) / ".driver.lock"
    os.kill(holder.pid, signal.SIGSTOP)
    lease = storage._lease(lock)
    write_atomic(lock, json.dumps(lease | {"host": "another"}).encode())
    with locked(lock, wait=False):
        os.kill(holder.pid, signal.SIGCONT)
        said = holder.communicate(timeout=20)[1]  # it finds that it lost the run
        assert said == "another process has taken this run over\n"
        assert storage._lease(lock)["pid"] == os.getpid()
    assert not (elsewhere(url) / "study.journal").exists()


def test_a_renewal_that_fails_is_tried_again(url, monkeypatch):
    monkeypatch.setattr(storage, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(storage, "SETTLING_SECONDS", 0.1)
    lock, failures = open_url(url) / ".driver.lock", [StoreAway(), PermissionError()]
    upload = object_store.Copy.upload

    def failing(copy, path):
        if threading.current_thread().name == "lease" and failures:
            raise failures.pop()
        upload(copy, path)

    monkeypatch.setattr(object_store.Copy, "upload", failing)
    with locked(lock, wait=False):
        time.sleep(2)
        assert not failures
        assert "renewed" in storage._lease(elsewhere(url) / ".driver.lock")


def test_a_store_that_is_away_for_longer_than_a_lease_frees_none(url, s3, holder):
    lock = open_url(url) / ".driver.lock"
    timers = [threading.Timer(1, s3.freeze), threading.Timer(6, s3.thaw)]
    for timer in timers:
        timer.start()
    with pytest.raises(BlockingIOError), locked(lock, wait=False):
        pass
    for timer in timers:
        timer.join()
    assert holder.poll() is None


def test_keys_that_are_refused_are_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "2")
    environment = dict(os.environ)
    server = S3Server(tmp_path / "s3.log")
    try:
        with pytest.raises(
            UserError, match=r"^s3://bucket/y.*cannot be used: .*; check URL, network, and credentials \(and"
        ):
            open_url("s3://bucket/y?scheme=http")
    finally:
        server.end()
        os.environ.clear()
        os.environ.update(environment)


def test_a_store_that_stays_away_is_one_error_and_the_rest_of_the_command_does_not_wait(s3, monkeypatch):
    monkeypatch.setattr("ambient_sweep.object_client.AWAY_SECONDS", 0.0)
    url = "s3://bucket/run?endpoint_override=127.0.0.1:1&scheme=http"
    root = object_store._opened(url).folder
    with pytest.raises(StoreAway, match=r"once it answers, `resume` or `train` goes on") as caught:
        write_atomic(root / "a.json", b"1")
    assert (caught.value.filename, (root / "a.json").read_bytes()) == (url, b"1")
    began = time.monotonic()
    with pytest.raises(StoreAway, match=r"does not answer"):
        write_atomic(root / "b.json", b"2")
    assert time.monotonic() - began < 1
