"""The manifests for KubeRay: against the schemas of Kubernetes, and the fields of KubeRay's own resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
MANIFESTS = ["raycluster.yaml", "rayjob.yaml"]
KUBERNETES = "1.33"


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "additionalProperties": False, "required": list(required), "properties": properties
    }  # fmt: skip


# Of the fields of ray.io/v1 those of use here, with the types and enumerations of KubeRay's API reference
# (1.6) and of raycluster_types.go and rayjob_types.go, from which its CRD is generated. The CRD itself, of
# which nine tenths are pod templates, is in no package that can be installed.
TEXT, COUNT, YES = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
GROUP = {"rayStartParams": TEXTS, "template": {"type": "object"}}
CLUSTER = closed(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling=YES,
    autoscalerOptions=closed(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds={"type": "integer", "minimum": 0},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    ),
    headGroupSpec=closed(("template",), serviceType=TEXT, **GROUP),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, **GROUP,
        ),
    },
)  # fmt: skip
JOB = closed(
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=YES,
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=CLUSTER,
)


def resources(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def cluster(made: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = made["spec"]
    return spec if made["kind"] == "RayCluster" else spec["rayClusterSpec"]


def pod(group: dict[str, Any]) -> dict[str, Any]:
    template = group["template"]
    return {"apiVersion": "v1", "kind": "Pod", **template, "metadata": template.get("metadata", {})}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_field_is_one_that_kuberay_and_kubernetes_know(name: str) -> None:
    made, *more = resources(name)
    assert made["apiVersion"] == "ray.io/v1"
    schema = closed(apiVersion=TEXT, kind=TEXT, metadata={"type": "object"}, spec=JOB)
    if made["kind"] == "RayCluster":
        schema["properties"]["spec"] = CLUSTER
    jsonschema.validate(made, schema)
    spec = cluster(made)
    pods = [pod(group) for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    for resource in (*pods, *more):
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    pods[-1]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pods[-1], KUBERNETES, strict=True)
    spec["idleTimeoutSeconds"] = 300
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, schema)


@pytest.mark.parametrize("name", MANIFESTS)
def test_gpu_machines_come_from_zero_spot_first_behind_a_token(name: str) -> None:
    made, *more = resources(name)
    spec = cluster(made)
    if made["kind"] == "RayJob":
        assert made["spec"]["entrypoint"].startswith("python -m bnsweep run ")
        assert [extra["kind"] for extra in more] == ["NetworkPolicy"], "its dashboard is not on loopback"
    else:
        assert not more
        assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    assert spec["authOptions"] == {"mode": "token", "secretName": "bnsweep-token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert 60 <= spec["autoscalerOptions"]["idleTimeoutSeconds"] <= 900
    head, groups = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert [group["groupName"] for group in groups] == ["gpu-spot", "gpu-ondemand"]
    for group in groups:
        assert group["replicas"] == group["minReplicas"] == 0
        assert group["maxReplicas"] > 0
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"]
        assert container["image"] == head["template"]["spec"]["containers"][0]["image"]
    assert "nodeSelector" in groups[0]["template"]["spec"]
    assert "nodeSelector" not in groups[1]["template"]["spec"]
