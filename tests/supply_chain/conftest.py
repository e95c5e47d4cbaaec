"""An index of this test's own: small wheels in a folder, and pip with that folder as the only place to look."""

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Index:
    folder: Path

    def offer(self, name: str, *versions: str, content: str = "") -> Path:
        """Put the smallest wheels that pip takes there; the last one's path."""
        for version in versions:
            facts = f"{name}-{version}.dist-info"
            path = self.folder / f"{name}-{version}-py3-none-any.whl"
            files = {
                f"{name}/__init__.py": content,
                f"{facts}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
                f"{facts}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{facts}/RECORD": "",
            }
            with zipfile.ZipFile(path, "w") as archive:
                for inside, text in files.items():
                    archive.writestr(zipfile.ZipInfo(inside), text)  # the same bytes at any time
        return path

    def download(self, *words: str) -> subprocess.CompletedProcess[str]:
        """pip resolves and fetches; no setting of this machine has a say."""
        command = [sys.executable, "-m", "pip", "--isolated", "download", "--no-index", "--find-links", "."]
        environment = {"PIP_CONFIG_FILE": os.devnull, "HOME": str(self.folder)}
        return subprocess.run(
            [*command, "-d", "got", *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def taken(self) -> list[str]:
        """The versions that the last download took."""
        return [path.name.split("-")[1] for path in (self.folder / "got").glob("*.whl")]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path)
