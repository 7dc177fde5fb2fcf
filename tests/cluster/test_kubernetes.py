"""The Kubernetes manifests against KubeRay's own definitions and the Kubernetes API, where unknown fields are errors."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate import validate

FOLDER = Path(__file__).parent.parent.parent / "cluster"
RAY = {"RayCluster": "raycluster.yaml", "RayJob": "rayjob.yaml"}
MAPS = {"annotations", "labels", "limits", "matchLabels", "metadata", "rayStartParams", "requests"}  # of any key


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI schema of Kubernetes under which unknown fields are errors; the API server drops them with a warning."""
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for part in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(part, dict):
            strict(part)
    return schema


@pytest.fixture(scope="module", params=RAY)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def schema(kind: str) -> Draft202012Validator:
    folder = os.environ.get("KUBERAY_CRDS")
    if folder is None:
        pytest.skip("KUBERAY_CRDS names no folder with KubeRay's custom resource definitions")
    text = Path(folder, f"ray.io_{kind.lower()}s.yaml").read_text()
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = next(each for each in definition["spec"]["versions"] if each["name"] == "v1")
    return Draft202012Validator(strict(version["schema"]["openAPIV3Schema"]))


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """The specs of pods in a manifest."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from pods(each)


def misspelt(value: Any, root: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of a manifest whose keys are fixed, and the manifest with this key misspelt."""
    root = value if root is None else root
    if isinstance(value, dict):
        for key in () if name in MAPS else tuple(value):
            value[key + "s"] = value.pop(key)
            yield key, root
            value[key] = value.pop(key + "s")
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from misspelt(part, root, str(key))


def test_ray_manifests_are_what_kuberay_defines(kind, schema):
    (manifest,) = documents(RAY[kind])
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    assert [error.message for error in schema.iter_errors(manifest)] == []


def test_no_misspelt_key_of_a_ray_manifest_passes(kind, schema):
    (manifest,) = documents(RAY[kind])
    mistakes = list(misspelt(copy.deepcopy(manifest)))
    passed = [key for key, changed in misspelt(copy.deepcopy(manifest)) if schema.is_valid(changed)]
    assert len(mistakes) > 80
    assert passed == []


def test_pods_and_plain_manifests_are_what_kubernetes_defines(kind):
    (manifest,) = documents(RAY[kind])
    plain = documents("kubernetes.yaml")
    assert {each["kind"] for each in plain} == {"PersistentVolumeClaim", "NetworkPolicy"}
    plain += [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec} for spec in pods(manifest)]
    for each in plain:
        validate(each, kubernetes_validate.latest_version(), strict=True)
        for _, changed in misspelt(copy.deepcopy(each)):
            with pytest.raises((kubernetes_validate.ValidationError, KeyError)):  # KeyError: of apiVersion and kind
                validate(changed, kubernetes_validate.latest_version(), strict=True)


def test_pods_are_unprivileged_bounded_and_behind_the_token_and_the_network_policy(kind):
    (manifest,) = documents(RAY[kind])
    cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ambient-sweep-token"}
    for spec in pods(manifest):
        assert spec["securityContext"]["runAsNonRoot"]
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert (
                container["resources"]["limits"].keys()
                >= {"cpu", "memory"}
                <= container["resources"]["requests"].keys()
            )
    claim, policy = documents("kubernetes.yaml")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [group["template"] for group in groups] + [manifest["spec"].get("submitterPodTemplate")]
    for template in filter(None, templates):
        assert template["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
    for group in groups:
        (volume,) = group["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (mount,) = group["template"]["spec"]["containers"][0]["volumeMounts"]
        assert mount == {"name": volume["name"], "mountPath": "/shared"}


def test_both_manifests_describe_one_cluster():
    (cluster,), (job,) = (documents(name) for name in RAY.values())
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
