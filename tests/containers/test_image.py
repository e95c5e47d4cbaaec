"""The image runs madpipe as nobody in particular, on a root that it cannot write to, and ends when it is told to."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "fit"
CASE = "digits-conj-mlp-0"
FIT = ("fit", "/models/config.yaml", "-o", "/results/pipeline", "--set", "decomposition.steps=60")
NOT_THE_ROOT = ("dev", "proc", "sys", "tmp", "models", "results", "run")
LARGEST = 2_000_000_000  # bytes of the CPU image: torch alone is a third of it


def everything_in(root: Path) -> dict[str, tuple[int, int, int]]:
    """Size, mode and time of change of every file of the root, without the folders where others are mounted."""
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root)
        if name.parts[0] not in NOT_THE_ROOT:
            facts = path.lstat()
            found[str(name)] = (facts.st_size, facts.st_mode, facts.st_mtime_ns)
    return found


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)


def test_it_says_its_version(image, folders):
    done = run(image.read_only(*folders, "--version"))
    assert (done.returncode, done.stdout) == (0, "madpipe 0.1.0\n"), done.stderr


def test_fit_and_score_work_on_a_root_that_is_read_only(image, folders):
    models, results = folders
    done = run(image.read_only(models, results, *FIT))
    assert done.returncode == 0, done.stderr
    done = run(
        image.read_only(models, results, "score", "--pipeline", "pipeline", "/models/test.npz", "-o", "scores.csv")
    )
    assert done.returncode == 0, done.stderr
    assert len((results / "scores.csv").read_text().splitlines()) == 151  # a header and 150 inputs
    assert {path.stat().st_uid for path in results.rglob("*")} == {10001}


def test_the_bundled_task_is_fitted_and_scored_and_nothing_of_the_root_changes(image, folders, capsys):
    models, results = folders
    (models / "bundled.yaml").write_text((CONFIGS / "digits_conj_mlp.yaml").read_text())
    assert image.buildah_run(models, results, "--version").returncode == 0  # buildah's own mount points are there now
    before = everything_in(image.root)
    for words in (
        ("fit", "/models/bundled.yaml", "-o", "/results/digits", "--threads", "1"),
        ("tasks", "export", CASE, "/results/task"),
        ("score", "--pipeline", "/results/digits", "/results/task/test.npz", "-o", "/results/digits.parquet"),
    ):
        done = image.buildah_run(models, results, *words)
        assert done.returncode == 0, done.stderr
    after = everything_in(image.root)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert not changed
    assert (results / "digits.parquet").stat().st_size
    with capsys.disabled():
        print(f"\nroot file system: {len(after):,} files before and after, changed: {len(changed)}")


def test_a_stop_signal_reaches_python_as_process_1(image, folders):
    models, results = folders
    words = image.read_only(models, results, *FIT[:-1], "decomposition.steps=2000000")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(results.rglob("*.ckpt")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.5)
    inside = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    subprocess.run(["kill", "-TERM", *inside], check=True)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "stopped by SIGTERM" in said


def test_it_is_small_and_says_what_it_is(image, capsys):
    # Files, not blocks, and hard links once: what a registry would send, before compression.
    sizes = {(facts := path.lstat()).st_ino: facts.st_size for path in image.root.rglob("*")}
    packages = image.root / "opt/madpipe/lib/python3.11/site-packages"
    largest = {
        folder.name: sum(path.lstat().st_size for path in folder.rglob("*"))
        for folder in packages.iterdir()
        if folder.is_dir()
    }
    with capsys.disabled():
        print(f"\nimage: {sum(sizes.values()) / 1e6:,.0f} MB; largest packages, MB:")
        for name in sorted(largest, key=largest.__getitem__, reverse=True)[:12]:
            print(f"  {largest[name] / 1e6:6,.0f}  {name}")
    assert sum(sizes.values()) < LARGEST
    assert image.config["Labels"]["org.opencontainers.image.title"] == "madpipe"
    assert image.config["User"] == "10001:10001"


def test_no_setting_of_the_building_machine_stays_in_it(image):
    written = json.dumps(image.config) + "".join(
        path.read_text() for path in (image.root / "etc").glob("pip*") if path.is_file()
    )
    assert "index" not in written
    assert not [path for place in ("build", "opt", "wheels") for path in (image.root / place).rglob("*.whl")]
