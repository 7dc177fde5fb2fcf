"""The doctor's findings: on a real node, on planted answers, and on storage that it cannot use; room on the cluster."""

import http.server
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from processes import wait_until
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from small_sweeps import small_sweep

from ambient_sweep.config import ResourcesConfig
from ambient_sweep.storage import write_atomic
from ambient_sweep.sweep.checks.doctor import Answer, _node, _token, answer, examine
from ambient_sweep.sweep.running.cluster import nodes_for, release_jobs, room, this_job
from ambient_sweep.sweep.running.workers import PLACEMENT_GROUP, UNNOTED_SECONDS, WorkerSlots
from ambient_sweep.trial.records import trial_folder

WELL = Answer({"python": "3.11.1", "torch": "2.14"}, 100.0, "", 2**40, "", "12.4", 1)
FINDINGS = {
    "torch missing instead of 2.14; install": {"versions": {"python": "3.11.1"}},
    "its clock is 30 s off": {"clock": 140.0},
    "--storage: not mounted; mount it": {"storage": "not mounted"},
    "--storage: 1.0 MiB free": {"free": 2**20},
    "no such images": {"images": "no such images"},
    "Ray offers 2 GPUs, but its torch is without CUDA": {"cuda": None},
    "2 Ray instances": {"instances": 2},
}


@pytest.mark.parametrize(("text", "change"), FINDINGS.items())
def test_each_problem_of_a_node_is_one_finding_with_its_cure(text, change):
    (found,) = _node("node 1", replace(WELL, **change), WELL, (90.0, 110.0), 2)
    assert not found.well
    assert text in found.text
    (well,) = _node("node 1", WELL, WELL, (90.0, 110.0), 2)
    assert well.well


@pytest.mark.parametrize(
    ("status", "sent", "well"), [(401, True, True), (200, True, False), (None, True, True), (None, False, False)]
)
def test_the_cluster_itself_is_asked_whether_it_needs_a_token(monkeypatch, status, sent, well):
    class Dashboard(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert "Authorization" not in self.headers
            self.send_response(status)
            self.end_headers()

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "token" if sent else "disabled")
    with http.server.HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        found = _token(f"127.0.0.1:{server.server_port}" if status else None)
    assert found.well == well


@pytest.mark.xdist_group("ray")
def test_a_dashboard_of_ray_s_own_refuses_requests_without_its_token(ray_head, monkeypatch):
    dashboard = ray.init(ignore_reinit_error=True, configure_logging=False).dashboard_url
    monkeypatch.setenv("RAY_ADDRESS", "the head of these tests")
    assert _token(dashboard).text == "token: sent with every request"


@pytest.mark.xdist_group("ray")
def test_a_sound_node_and_the_room_for_a_sweep(ray_head, tmp_path):
    storage = tmp_path / "runs"
    findings = examine(small_sweep(tmp_path), storage)
    texts = [finding.text for finding in findings if finding.well]
    assert any(text.startswith("trials: ") for text in texts)
    assert not storage.exists()  # nothing stays
    problems = [finding.text for finding in findings if not finding.well]
    assert all("Ray instances" in text for text in problems)  # others may run beside the tests


@pytest.mark.xdist_group("ray")
def test_a_node_that_is_lost_meanwhile(ray_head, tmp_path, monkeypatch):
    (node,) = ray.nodes()
    gone = node | {"NodeID": "0" * len(node["NodeID"]), "NodeManagerHostname": "gone"}
    monkeypatch.setattr("ray.nodes", lambda: [node, gone])
    problems = [finding.text for finding in examine(None, tmp_path / "runs") if "gone" in finding.text]
    assert problems == [f"node {node['NodeManagerAddress']} (gone): lost while it was examined; see Ray's log there"]


def test_storage_that_another_node_does_not_see(tmp_path):
    found = answer(tmp_path / "marker", [])
    assert found.storage == "another folder than the driver's, or not mounted"


@pytest.mark.xdist_group("ray")
def test_storage_that_cannot_be_written(ray_head, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (_, problem) = examine(None, tmp_path / "file" / "runs")
    assert problem.text.startswith(f"--storage: {tmp_path}/file")


@pytest.mark.xdist_group("ray")
def test_the_autoscaler_is_asked_for_all_trials_until_the_search_ends(ray_head: None) -> None:
    def asked() -> list[dict[str, float]]:
        return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))

    with nodes_for(ResourcesConfig(workers=2), 8):
        assert asked() == [{"CPU": 1.0}] * 16
    assert asked() == []


@pytest.mark.xdist_group("ray")
def test_what_waits_for_room_is_told_who_holds_it(ray_head: None) -> None:
    group = placement_group([{"CPU": 1.0}])
    ray.get(group.ready())
    try:
        assert "; trials of this sweep hold 1 CPUs" in room(ResourcesConfig())
    finally:
        remove_placement_group(group)


RESERVING = """
import ray, sys
ray.init(sys.argv[1], log_to_driver=False, logging_level="error")
ray.get(ray.util.placement_group([{"CPU": 1.0}], lifetime="detached").ready())
print(ray.get_runtime_context().get_job_id())
"""


@pytest.mark.xdist_group("ray")
def test_what_a_dead_driver_of_a_sweep_reserved_is_given_back(ray_head: None) -> None:
    words = [sys.executable, "-c", RESERVING, ray.get_runtime_context().gcs_address]
    job = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1]
    head = this_job().partition("/")[0]
    release_jobs([this_job(), f"another/{job}"])
    assert f"job {job} holds 1 CPUs" in room(ResourcesConfig())
    release_jobs([f"{head}/{job}"])
    assert job not in room(ResourcesConfig())


@pytest.mark.xdist_group("ray")
def test_slots_that_an_attempt_asked_for_and_never_noted_are_given_back(ray_head: None, tmp_path: Path) -> None:
    need, now = ResourcesConfig(workers=2, cpus=0.4), [0.0]
    slots, groups = WorkerSlots(tmp_path, need, lambda: now[0]), dict[str, PlacementGroup]()

    def ask(name: str, cpus: float = 0.4) -> None:
        groups[name] = placement_group([{"CPU": cpus}] * 2)
        wait_until(lambda: groups[name].id.hex() in placement_group_table())

    def held() -> set[str]:
        now[0] += 11
        slots.release_unnoted()
        table = placement_group_table()
        return {name for name, group in groups.items() if table[group.id.hex()]["state"] != "REMOVED"}

    ask("of another kind", 0.1)
    slots.begin("a")
    ask("of a's first attempt")
    ask("waiting", 64)
    assert held() == groups.keys()
    now[0] += 11
    slots.begin("a")
    ask("of a's second")
    assert held() == {"of another kind", "of a's second"} | {"waiting"}, "its bundles are others"
    write_atomic(trial_folder(tmp_path, "a") / PLACEMENT_GROUP, groups["of a's second"].id.hex().encode())
    now[0] += UNNOTED_SECONDS
    assert "of a's second" in held()
    slots.begin("b")
    ask("of b")
    ray.get(groups["of b"].ready(), timeout=30)
    slots.begin("c")
    assert "of b" in held(), "b may note it yet"
    now[0] += UNNOTED_SECONDS
    assert held() == {"of another kind", "of a's second", "waiting"}, "no worker takes that long to start"
    slots.end("a")
    assert held() == {"of another kind", "waiting"}
    write_atomic(trial_folder(tmp_path, "a") / PLACEMENT_GROUP, b"\xffdamaged")
    slots.end("a")
    for group in groups.values():
        remove_placement_group(group)
