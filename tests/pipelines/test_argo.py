"""The Argo workflow: steps that there are, in an order that ends, without rights."""

from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).resolve().parents[2] / "pipelines" / "argo" / "madpipe.yaml"
WORKFLOW: dict[str, Any] = yaml.safe_load(FILE.read_text())
SPEC = WORKFLOW["spec"]["workflowSpec"]
TEMPLATES = {template["name"]: template for template in SPEC["templates"]}
TASKS = {task["name"]: task for task in TEMPLATES[SPEC["entrypoint"]]["dag"]["tasks"]}
STEPS = {name: template for name, template in TEMPLATES.items() if "container" in template}


def test_the_steps_follow_one_another_from_fit_to_score():
    order, left = [], dict(TASKS)
    while left:
        ready = [name for name, task in left.items() if task.get("depends") in (None, *order)]
        assert len(ready) == 1, f"{sorted(left)} wait for each other"
        order += [left.pop(name)["name"] for name in ready]
    assert order == ["fit", "evaluate", "evaluate-champion", "promote", "score"]


def test_every_template_is_used_and_gets_the_parameters_it_asks_for():
    assert {task["template"] for task in TASKS.values()} == STEPS.keys()
    for task in TASKS.values():
        asked = {entry["name"] for entry in TEMPLATES[task["template"]].get("inputs", {}).get("parameters", [])}
        assert {entry["name"] for entry in task.get("arguments", {}).get("parameters", [])} == asked


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_arguments_and_nothing_else(name: str):
    assert STEPS[name]["container"].keys() == {"image", "args"}


def test_what_steps_share_has_no_rights_and_mounts_what_there_is():
    shared = SPEC["templateDefaults"]["container"]
    assert shared["command"] == ["python", "-m", "madpipe"]
    assert shared["securityContext"]["readOnlyRootFilesystem"] is True
    assert shared["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert SPEC["securityContext"]["runAsNonRoot"] is True
    volumes = {volume["name"]: volume for volume in SPEC["volumes"]}
    assert {mount["name"] for mount in shared["volumeMounts"]} == volumes.keys()
    temporary = next(mount["name"] for mount in shared["volumeMounts"] if mount["mountPath"] == "/tmp")
    assert "emptyDir" in volumes[temporary]


def test_exit_codes_2_and_4_are_not_tried_again_and_runs_never_overlap():
    assert SPEC["templateDefaults"]["retryStrategy"]["expression"] == "!(asInt(lastRetry.exitCode) in [2, 4])"
    assert WORKFLOW["spec"]["concurrencyPolicy"] == "Forbid"
