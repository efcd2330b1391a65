"""The Kubernetes manifest and the image: right fields, and resources that are those of the plan they run."""

from __future__ import annotations

import re
import shlex
import tomllib
from typing import Any

import jsonschema
import pytest
import yaml

from actors.policies.model_size import find_models
from cluster.cli import build_parser, parse
from configs.checks.validate import validate
from configs.load import load_config
from configs.planning.plan import make_plan
from tests.reference.command import ROOT

GIB = 1 << 30


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
WORDS = {"type": "object", "additionalProperties": TEXT}
CONTAINER = closed(
    ["name", "image", "resources"],
    name=TEXT,
    image=TEXT,
    resources=closed(["limits", "requests"], limits=WORDS, requests=WORDS),
    ports={"type": "array", "items": closed(["containerPort"], containerPort=COUNT, name=TEXT)},
    volumeMounts={"type": "array", "items": closed(["name", "mountPath"], name=TEXT, mountPath=TEXT)},
)
TEMPLATE = closed(
    ["spec"],
    spec=closed(
        ["containers"],
        containers={"type": "array", "minItems": 1, "items": CONTAINER},
        volumes={"type": "array", "items": {"type": "object", "required": ["name"]}},
    ),
)
HEAD = {"rayStartParams": WORDS, "template": TEMPLATE, "serviceType": TEXT, "labels": WORDS}
WORKERS = {
    "groupName": TEXT, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT, "numOfHosts": COUNT,
    "rayStartParams": WORDS, "template": TEMPLATE, "labels": WORDS,
}  # fmt: skip
RAY_JOB = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed(["name"], name=TEXT, namespace=TEXT, labels=WORDS),
    spec=closed(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        activeDeadlineSeconds=COUNT,
        backoffLimit=COUNT,
        runtimeEnvYAML=TEXT,
        rayClusterSpec=closed(
            ["headGroupSpec"],
            rayVersion=TEXT,
            headGroupSpec=closed(["template"], **HEAD),
            workerGroupSpecs={
                "type": "array",
                "items": closed(["groupName", "minReplicas", "maxReplicas", "template"], **WORKERS),
            },
        ),
    ),
)
"""The part of KubeRay's RayJob (ray.io/v1) that the manifest uses, closed: a misspelt field fails."""


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    return only


def gib(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


def test_the_manifest_has_the_fields_of_a_ray_job(job):
    jsonschema.Draft202012Validator(RAY_JOB).validate(job)


def test_a_misspelt_field_would_be_found(job):
    broken = {**job, "spec": {**job["spec"], "entrypont": "x"}}
    with pytest.raises(jsonschema.ValidationError, match="entrypont"):
        jsonschema.Draft202012Validator(RAY_JOB).validate(broken)


def test_its_command_is_one_that_vlcot_takes(job):
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "vlcot"
    arguments = parse(build_parser(), words)
    assert (arguments.command, arguments.address) == ("train", "auto")
    validate(load_config(arguments.config, arguments.overrides), paths=False)


def test_its_machines_are_those_of_the_plan(job):
    config = load_config("qwen2_5_vl_64gpu")
    plan = make_plan(config, find_models(config))
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    nodes = plan.placement.nodes
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == len(nodes)
    limits = container(group)["resources"]["limits"]
    assert {int(limits["nvidia.com/gpu"])} == {node.num_gpus for node in nodes}
    assert int(limits["cpu"]) >= max(node.num_threads for node in nodes)
    volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
    assert gib(volumes["shm"]["emptyDir"]["sizeLimit"]) * GIB * len(nodes) > plan.store_bytes


def test_requests_equal_limits_and_the_head_computes_nothing(job):
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        resources = container(group)["resources"]
        assert resources["requests"] == resources["limits"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_image_manifest_and_project_agree_on_versions(job):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    docker = (ROOT / "deploy" / "Dockerfile").read_text()
    ray = next(line.partition("==")[2] for line in project["dependencies"] if line.startswith("ray["))
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray
    assert f'"ray[default]=={ray}"' in docker
    assert f"ray=={ray}" in (ROOT / "requirements-gpu.lock").read_text()
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert container(group)["image"] == f"vlcot:{project['version']}"
    python = re.search(r"^FROM python:(\d+\.\d+)", docker, re.MULTILINE)
    assert python is not None
    assert project["requires-python"].startswith(f">={python[1]}")


def test_the_image_holds_every_package():
    docker = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = [word for line in docker.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"rl", "actors", "rewards", "cluster", "configs"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
