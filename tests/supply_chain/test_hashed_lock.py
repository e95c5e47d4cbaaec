"""requirements.hashed.lock is requirements.lock with digests, and pip refuses a file that has another one."""

import re
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHOSEN_BY_THE_MACHINE = {"torch"}  # its CPU and CUDA builds have the same version and digests of their own
ENTRY = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)
HASHED = {
    name.lower().replace("_", "-"): (version, hashes.count("sha256"))
    for name, version, hashes in ENTRY.findall((ROOT / "requirements.hashed.lock").read_text())
}
LOCK = {
    name.lower().replace("_", "-"): version
    for name, version in re.findall(r"^([^#=\s]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
}


def test_it_holds_the_versions_of_the_lock_each_with_a_digest():
    """`make lock` brings it up to date."""
    expected = {name: version for name, version in LOCK.items() if name not in CHOSEN_BY_THE_MACHINE}
    assert {name: version for name, (version, _) in HASHED.items()} == expected
    assert min(count for _, count in HASHED.values()) >= 1


def test_nothing_in_it_is_without_a_digest():
    lines = [line for line in (ROOT / "requirements.hashed.lock").read_text().splitlines() if line and line[0] != "#"]
    assert len([line for line in lines if "==" in line]) == len(HASHED)
    assert all(line.startswith("    --hash=sha256:") or re.fullmatch(r"\S+==\S+ \\", line) for line in lines)


@pytest.mark.parametrize(("content", "code"), [("# as it was published", 0), ("# as somebody changed it", 1)])
def test_pip_takes_the_file_with_the_digest_and_no_other(content: str, code: int, index):
    published = index.offer("lightning", "2.6.6", content="# as it was published")
    digest = sha256(published.read_bytes()).hexdigest()
    index.offer("lightning", "2.6.6", content=content)
    (index.folder / "lock").write_text(f"lightning==2.6.6 --hash=sha256:{digest}\n")
    done = index.download("--no-deps", "--require-hashes", "-r", "lock")
    assert done.returncode == code, done.stderr
    assert ("DO NOT MATCH THE HASHES" in done.stderr) == bool(code)
