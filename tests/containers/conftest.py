"""The image, really built and run without an engine: debootstrap makes the base, buildah the image, unshare runs it.

`make image-test` asks for it (MADPIPE_IMAGE_TEST names the folder that keeps base and layers between runs); it takes
minutes, a package index and root, so that the ordinary tests leave it out.
"""

import configparser
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USER = 10001
NEEDED = {"buildah": "buildah", "debootstrap": "debootstrap", "unshare": "util-linux"}  # program: Debian package
BASE, IMAGE = "localhost/debian-python", "localhost/madpipe"
# What `docker run --read-only --tmpfs /tmp -v ...` asks an engine for: $1 root, $2 models, $3 results.
READ_ONLY_ROOT = """
set -e
mount --bind "$1" /mnt && mount -o remount,bind,ro /mnt
mount -t proc proc /mnt/proc && mount --rbind /dev /mnt/dev && mount -t tmpfs -o mode=1777 tmpfs /mnt/tmp
mount --bind "$2" /mnt/models && mount -o remount,bind,ro /mnt/models && mount --bind "$3" /mnt/results
shift 3
exec chroot --userspec=10001:10001 /mnt /usr/bin/env -i --chdir=/results "$@"
"""


@dataclass(frozen=True)
class Image:
    """`root` is the mounted root file system, `config` the OCI config, `container` the working container's name."""

    store: Path
    container: str
    root: Path
    config: dict

    def read_only(self, models: Path, results: Path, *words: str) -> list[str]:
        """The command that runs the image's own entry point as process 1, on a root that nobody can write to."""
        inside = [*self.config["Env"], *self.config["Entrypoint"], *words]
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", READ_ONLY_ROOT, "sh"]
        return [*own, str(self.root), str(models), str(results), *inside]

    def buildah_run(self, models: Path, results: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """The same under buildah, whose root can be written to."""
        volumes = ["-v", f"{models}:/models:ro", "-v", f"{results}:/results"]
        inside = [*self.config["Entrypoint"], *words]
        return _ran([*_buildah(self.store, "run"), "--isolation", "chroot", *volumes, self.container, "--", *inside])


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    kept = os.environ.get("MADPIPE_IMAGE_TEST")
    if not kept:
        pytest.skip("`make image-test` builds and runs the image")
    missing = sorted(package for program, package in NEEDED.items() if not shutil.which(program))
    if missing or os.geteuid():
        pytest.skip(f"needs the Debian package {', '.join(missing)}" if missing else "needs root")
    store = Path(kept).resolve() / "store"
    _make_base(store)
    _build(store, tmp_path_factory.mktemp("pip"))
    (container,) = _ran([*_buildah(store, "from"), "--pull-never", IMAGE], check=True).stdout.split()
    (root,) = _ran([*_buildah(store, "mount"), container], check=True).stdout.split()
    inspected = json.loads(_ran([*_buildah(store, "inspect"), container], check=True).stdout)
    yield Image(store, container, Path(root), inspected["OCIv1"]["config"])
    _ran([*_buildah(store, "umount"), container])
    _ran([*_buildah(store, "rm"), container])


@pytest.fixture
def folders(tmp_path: Path, write_own_model) -> tuple[Path, Path]:
    """A network of the user's, and an empty folder that is user 10001's; both may be reached by that user."""
    models, results = tmp_path / "models", tmp_path / "results"
    models.mkdir()
    results.mkdir()
    write_own_model(models)
    os.chown(results, USER, USER)
    for folder in (models, results):
        folder.chmod(0o755)
    for file in models.iterdir():
        file.chmod(0o644)
    return models, results


def _ran(words: list[str], *, check: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done


def _buildah(store: Path, verb: str) -> list[str]:
    return ["buildah", "--root", str(store / "root"), "--runroot", str(store / "run"), verb]


def _make_base(store: Path) -> None:
    """Debian's smallest system with its Python as `python`: what BASE_IMAGE must be at least."""
    if _ran([*_buildah(store, "inspect"), "--type", "image", BASE]).returncode == 0:
        return
    tree = store / "base"
    shutil.rmtree(tree, ignore_errors=True)
    packages = "python3,python3-venv,python-is-python3,ca-certificates"
    _ran(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(tree)], check=True)
    for leftover in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(tree / leftover)
    (container,) = _ran([*_buildah(store, "from"), "scratch"], check=True).stdout.split()
    _ran([*_buildah(store, "copy"), "--quiet", container, str(tree), "/"], check=True)
    _ran([*_buildah(store, "commit"), "--quiet", "--rm", container, BASE], check=True)
    shutil.rmtree(tree)


def _build(store: Path, scratch: Path) -> None:
    """The Dockerfile as it stands, with this machine's pip settings mounted while pip runs."""
    own, folders = configparser.ConfigParser(interpolation=None), set()
    own["global"] = {}
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        name, value = key.rpartition(".")[2], value.strip("'\"")
        words = [word for word in value.split() if not word.startswith("file:")]  # an index in a folder stays here
        own["global"][name] = " ".join(words)
        folders |= {Path(word).parent if Path(word).is_file() else Path(word) for word in words if Path(word).exists()}
    with (scratch / "pip.conf").open("w") as file:
        own.write(file)
    words = [
        *_buildah(store, "bud"),
        "--isolation",
        "chroot",
        "--pull-never",
        "--layers",
        "--build-arg",
        f"BASE_IMAGE={BASE}",
    ]
    words += ["--secret", f"id=pip,src={scratch / 'pip.conf'}", "--tag", IMAGE]
    words += [word for folder in sorted(folders) for word in ("--volume", f"{folder}:{folder}:ro")]
    _ran([*words, str(ROOT)], check=True)
