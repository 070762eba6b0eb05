"""The examples for clusters are well-formed: a RayJob by KubeRay's fields, shell scripts, and commands that exist.

The rules are a small part of KubeRay's and Kubernetes' own, written here, for neither can be asked in a test.
"""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from benchmarks.tables import DOCUMENTS, ROOT
from segment.cli.app import app
from segment.cli.commands import predict  # noqa: F401 - adds its command to `app`

EXAMPLE = ROOT / "docs" / "how-to" / "kuberay.yaml"
PAGE = ROOT / "docs" / "how-to" / "several-machines.md"

NAME = {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY, "minProperties": 1}


def fields(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def listed(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


CONTAINER = fields(
    {"name": NAME, "image": {"type": "string", "pattern": r"^[\w./-]+:[\w.-]+$"}},
    {
        "env": listed(fields({"name": {"type": "string", "pattern": r"^[A-Z_]+$"}, "value": {"type": "string"}})),
        "resources": fields({"requests": QUANTITIES, "limits": QUANTITIES}),
        "volumeMounts": listed(fields({"name": NAME, "mountPath": {"type": "string", "pattern": "^/"}})),
    },
)
VOLUME = fields({"name": NAME, "persistentVolumeClaim": fields({"claimName": NAME})})
GROUP = {
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "template": fields({"spec": fields({"containers": listed(CONTAINER)}, {"volumes": listed(VOLUME)})}),
}
COUNT = {"type": "integer", "minimum": 0}
CLUSTER = fields(
    {
        "rayVersion": {"type": "string"},
        "headGroupSpec": fields(GROUP),
        "workerGroupSpecs": listed(
            fields(GROUP | {"groupName": NAME} | dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), COUNT))
        ),
    }
)
RAY_JOB = fields(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": fields({"name": NAME}),
        "spec": fields(
            {
                "entrypoint": {"type": "string", "minLength": 1},
                "rayClusterSpec": CLUSTER,
                "shutdownAfterJobFinishes": {"const": True},
            },
            {"backoffLimit": COUNT, "ttlSecondsAfterFinished": COUNT},
        ),
    }
)
CLAIM = fields(
    {
        "apiVersion": {"const": "v1"},
        "kind": {"const": "PersistentVolumeClaim"},
        "metadata": fields({"name": NAME}),
        "spec": fields(
            {
                "accessModes": {"const": ["ReadWriteMany"]},  # pods of several machines write to it
                "resources": fields({"requests": fields({"storage": QUANTITY})}),
            }
        ),
    }
)


def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    claim, job = yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8"))
    return claim, job


def check(claim: dict[str, Any], job: dict[str, Any]) -> None:
    """The shape of both, then what its parts say of each other."""
    jsonschema.validate(claim, CLAIM)
    jsonschema.validate(job, RAY_JOB)
    cluster = job["spec"]["rayClusterSpec"]
    pinned = re.search(r"^ray==(.+)$", (ROOT / ".ci" / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images, mounts = set(), set()
    for pod in (group["template"]["spec"] for group in groups):
        claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            images.add(container["image"])
            mounts |= {(claims[mount["name"]], mount["mountPath"]) for mount in container["volumeMounts"]}
            assert container["resources"]["requests"] == container["resources"]["limits"]  # none is taken away
    assert len(images) == 1  # the same segment, Ray and torch everywhere
    assert mounts == {(claim["metadata"]["name"], "/data")}  # the same path everywhere


def test_the_ray_job_is_one_that_kuberay_takes_and_its_parts_agree() -> None:
    check(*documents())


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown field": lambda job: job["spec"].update(entryPoint="segment"),
    "a number for a string": lambda job: job["spec"]["rayClusterSpec"].update(rayVersion=2.6),
    "another Ray": lambda job: job["spec"]["rayClusterSpec"].update(rayVersion="2.1.0"),
    "no head": lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"),
    "more than there may be": lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas=9),
    "a volume of another name": lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"][
        "volumes"
    ][0].update(name="other"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_mistake_in_the_ray_job_is_seen(change: str) -> None:
    claim, job = documents()
    changed = copy.deepcopy(job)
    CHANGES[change](changed)
    with pytest.raises((jsonschema.ValidationError, AssertionError, KeyError)):
        check(claim, changed)


def test_the_page_shows_the_ray_job_as_it_is() -> None:
    assert f"```yaml\n{EXAMPLE.read_text(encoding='utf-8')}```\n" in PAGE.read_text(encoding="utf-8")


def scripts() -> list[str]:
    """Shell scripts of all documents."""
    found = []
    for document in DOCUMENTS:
        found += re.findall(r"^```bash\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return found


def shellcheck(script: str) -> str:
    """What shellcheck says of a script; "" where it finds nothing."""
    program = Path(sys.executable).parent / "shellcheck"
    checked = subprocess.run(
        [program, "--format=gcc", "-"], input=script, capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode in (0, 1), checked.stderr
    return checked.stdout


def test_shell_scripts_of_the_documents_are_sound() -> None:
    assert scripts()
    assert {script: said for script in scripts() if (said := shellcheck(script))} == {}
    assert "SC2086" in shellcheck('#!/bin/bash\nname="$1"\nls $name\n')


def commands() -> list[list[str]]:
    """Command lines of segment in the RayJob and in the scripts, without the program."""
    texts = [documents()[1]["spec"]["entrypoint"], *(text.replace("\\\n", " ") for text in scripts())]
    return [
        shlex.split(line)[1:]
        for text in texts
        for line in re.findall(r"(?:^|\s)(segment (?:predict|fit|evaluate|sweep) [^\n]*)", text)
    ]


def test_commands_of_the_examples_have_options_that_exist() -> None:
    group: Any = typer.main.get_command(app)
    assert len(commands()) == 2
    for name, *words in commands():
        command = group.get_command(None, name)
        context = command.make_context(name, list(words), resilient_parsing=False)
        assert context.params["runner"] == "ray"
        assert context.params["resume"]
