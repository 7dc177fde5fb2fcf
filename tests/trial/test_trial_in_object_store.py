"""Trials whose folder is a URL: the same bits as in a folder, whoever goes on and whatever happens to the server."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_trials import POWER, assert_same, opened, small

from ambient_sweep import object_client
from ambient_sweep.stages.stages import Stages
from ambient_sweep.trial.records import read_trial
from ambient_sweep.trial.retention import discard
from ambient_sweep.trial.run import Interrupted, run_trial


def stop_after(images):
    reached = [0]
    return {"on_report": lambda n, _: reached.append(n), "interrupted": lambda: max(reached) >= images}


@pytest.mark.parametrize("place", ["s3"], indirect=True)
@pytest.mark.parametrize("extra", [{}, POWER])
def test_a_trial_goes_on_on_another_machine(place, alone, s3, extra):
    config = small(extra)
    with pytest.raises(Interrupted):
        run_trial(config, opened(place), "a", **stop_after(700))
    root = opened(place)
    assert read_trial(root, "a").images_done < 1600
    run_trial(config, root, "a")
    assert_same(opened(place), "a", alone(config))
    kept = s3.files(place.partition("bucket/")[2].partition("?")[0])
    log = kept["trials/a/log.txt"].decode()
    assert all(f" {images} images, sampled to zero: " in log for images in ("320", "640", "1,120", "1,600"))
    assert len([name for name in kept if name.startswith("trials/a/events.")]) == 2


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_trials_on_two_machines_share_their_stages(place, alone):
    config = small({"consistency.weight": 3.0})
    for name, each in (("a", small()), ("b", config)):
        root = opened(place)
        run_trial(each, root, name, stages=Stages(root))
    record = read_trial(root, "b")
    assert (record.forked_at, record.images_executed) == (960, 640)
    assert_same(root, "b", alone(config))
    assert Stages(opened(place)).bytes() > 0
    stages = Stages(opened(place))
    assert {int(key[:9]) for key in stages.collect([])} == {320, 640, 960, 1120, 1600}
    assert Stages(opened(place)).states() == set()


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_server_that_is_away_for_a_while_costs_nothing_but_time(place, alone, s3, seconds, monkeypatch, caplog):
    monkeypatch.setattr(object_client, "TOLD_SECONDS", 2)
    told = threading.Event()
    back = threading.Thread(target=lambda: (told.wait(60), time.sleep(seconds - 2), s3.thaw()))

    def heard(record):
        if "no answer" in record.getMessage():  # however long it took to the first request
            told.set()
        return True

    caplog.handler.addFilter(heard)

    def away(images, evaluation):
        if images >= 640 and back.ident is None:
            s3.freeze()
            back.start()

    run_trial(small(), opened(place), "a", on_report=away)
    back.join()
    assert_same(opened(place), "a", alone(small()))
    lines = [record.getMessage() for record in caplog.records if place in record.getMessage()]
    assert lines == [f"{place}: no answer for 2 seconds; waiting, for 15 minutes at most", f"{place}: answers again"]


KILLED = """
import sys
from ambient_sweep import object_store
from ambient_sweep.trial.retention import discard
from small_trials import opened
from sudden_death import nth
root = opened(sys.argv[1])
nth(object_store.Copy, "erase", int(sys.argv[2]))
discard(root, [sys.argv[3]])
"""


@pytest.mark.parametrize("count", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3, 8, 12, 16, 20, 30))])
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_kill_while_objects_are_removed_leaves_no_half_and_the_next_call_finishes(place, s3, count):
    root, kept = opened(place), "trials/a/checkpoints/images-000001120"
    run_trial(small(), root, "a", stages=Stages(root))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", KILLED, place, str(count), kept], check=False, env=environment)
    assert done.returncode == -signal.SIGKILL
    folder = place.partition("bucket/")[2]
    for name in (left := s3.files(folder)):
        described = {"checkpoint.json": "model", "state.json": "state"}.get(name.rpartition("/")[2])
        assert described is None or f"{name.rpartition('/')[0]}/{described}.safetensors" in left
    discard(opened(place), [kept])
    tensors = {name for name in s3.files(folder) if name.endswith(".safetensors") and "reference" not in name}
    assert tensors == {f"{kept}/model.safetensors"}
