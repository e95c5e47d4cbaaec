"""The manifests: valid to the letter, unprivileged, and such that what cannot succeed is not tried again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from madpipe.config.loading import load_config

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the pip package kubernetes-validate")

FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "kubernetes"
BASE = FOLDER / "base"
MANIFESTS = [
    (path, document)
    for path in sorted(FOLDER.rglob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if "overlays" not in path.parts and document.get("kind", "Kustomization") != "Kustomization"
]
JOBS = [(path, document) for path, document in MANIFESTS if document["kind"] in ("Job", "CronJob")]
OVERLAYS = sorted((FOLDER / "overlays").iterdir())


def title(found: Any) -> str | None:
    return f"{found['kind']}-{found['metadata']['name']}" if isinstance(found, dict) else None


def job_of(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"]["jobTemplate"]["spec"] if document["kind"] == "CronJob" else document["spec"]


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    return job_of(document)["template"]["spec"]


each_manifest = pytest.mark.parametrize("manifest", [found for _, found in MANIFESTS], ids=title)
each_job = pytest.mark.parametrize("job", [found for _, found in JOBS], ids=title)
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)


@each_manifest
def test_it_is_valid_and_has_no_field_that_the_api_does_not_know(manifest: dict[str, Any]):
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_be_seen():
    _, job = JOBS[0]
    job_of(wrong := yaml.safe_load(yaml.safe_dump(job)))["backofLimit"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


@each_job
def test_a_pod_has_no_rights_and_a_root_that_it_cannot_write_to(job: dict[str, Any]):
    pod = pod_of(job)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


@each_job
def test_what_is_mounted_is_a_volume_and_tmp_is_one_that_vanishes(job: dict[str, Any]):
    pod = pod_of(job)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for container in pod["containers"]:
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == volumes.keys()
        assert "emptyDir" in volumes[mounts["/tmp"]]


@each_job
def test_exit_codes_2_and_4_are_not_tried_again(job: dict[str, Any]):
    (rule,) = [rule for rule in job_of(job)["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [2, 4]
    assert rule["onExitCodes"]["containerName"] in {container["name"] for container in pod_of(job)["containers"]}
    assert pod_of(job)["restartPolicy"] == "Never"  # without it the policy is refused


def test_scheduled_runs_never_overlap():
    schedules = [found["spec"] for _, found in JOBS if found["kind"] == "CronJob"]
    assert [spec["concurrencyPolicy"] for spec in schedules] == ["Forbid"]


def test_there_are_as_many_pods_as_shards_and_the_merge_takes_them_all():
    jobs = {found["metadata"]["name"]: found for _, found in JOBS}
    scoring = jobs["madpipe-score-shards"]
    shards = scoring["spec"]["completions"]
    words = pod_of(scoring)["containers"][0]["args"]
    assert words[words.index("--shard") + 1] == f"$(JOB_COMPLETION_INDEX)/{shards}"
    written = [words[-1].replace("$(JOB_COMPLETION_INDEX)", str(index)) for index in range(shards)]
    assert pod_of(jobs["madpipe-merge"])["containers"][0]["args"][1:-2] == written


def test_as_many_nodes_train_as_there_are_pods():
    (job,) = [found for _, found in JOBS if found["metadata"]["name"] == "madpipe-decompose"]
    assert f"trainer.num_nodes={job['spec']['completions']}" in pod_of(job)["containers"][0]["args"]
    (service,) = [found for _, found in MANIFESTS if found["kind"] == "Service"]
    environment = {entry["name"]: entry.get("value") for entry in pod_of(job)["containers"][0]["env"]}
    assert environment["MASTER_ADDR"] == f"madpipe-decompose-0.{service['metadata']['name']}"
    assert environment["MASTER_PORT"] == str(service["spec"]["ports"][0]["port"])
    assert service["metadata"]["name"] == pod_of(job)["subdomain"]


def claims_and_maps(document: dict[str, Any]) -> Iterator[str]:
    for volume in pod_of(document)["volumes"]:
        yield from (volume[kind][key] for kind, key in _NAMED.items() if kind in volume)


_NAMED = {"persistentVolumeClaim": "claimName", "configMap": "name"}


@each_job
def test_volumes_and_config_are_those_of_the_base(job: dict[str, Any]):
    base = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    known = {found["metadata"]["name"] for _, found in MANIFESTS if found["kind"] == "PersistentVolumeClaim"}
    known |= {made["name"] for made in base["configMapGenerator"]}
    assert set(claims_and_maps(job)) <= known


def test_the_base_lists_its_files_and_its_config_is_one_that_madpipe_takes():
    base = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    listed = {*base["resources"], *(name for made in base["configMapGenerator"] for name in made["files"])}
    assert listed == {path.name for path in BASE.iterdir()} - {"kustomization.yaml"}
    assert load_config(BASE / "config.yaml").tracking.experiment == "my-model"


@each_overlay
def test_an_overlay_changes_what_there_is_and_stays_valid(overlay: Path):
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    (base,) = kustomization["resources"]
    assert (overlay / base).resolve() == BASE
    known = {title(found): found for path, found in MANIFESTS if path.parent == BASE}
    images = {container["image"] for _, found in JOBS for container in pod_of(found)["containers"]}
    assert {changed["name"] for changed in kustomization["images"]} <= images
    for entry in kustomization["patches"]:
        patch = yaml.safe_load((overlay / entry["path"]).read_text())
        assert title(patch) in known
        merged = merged_with(known[str(title(patch))], patch)
        assert len(pod_of(merged)["containers"]) == len(pod_of(known[str(title(patch))])["containers"])
        kubernetes_validate.validate(merged, kubernetes_validate.latest_version(), strict=True)


def merged_with(base: Any, patch: Any) -> Any:
    """A strategic merge: mappings by key, lists of named things by name, other lists whole."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merged_with(base.get(key), value) for key, value in patch.items()}
    if isinstance(base, list) and all(isinstance(item, dict) and "name" in item for item in [*base, *patch]):
        theirs = {item["name"]: item for item in patch}
        old = [merged_with(item, theirs.pop(item["name"], {})) for item in base]
        return [*old, *theirs.values()]
    return patch
