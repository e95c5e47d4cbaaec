"""Everything that madpipe needs at run time may be used and passed on with it: permissive licences, and MPL files."""

import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-2.0",  # of single files (certifi, tqdm): asks for their source, which is what is installed
    "PSF-2.0",
    "Zlib",
}
# What authors wrote before there were SPDX expressions.
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
WORDS = {"3-Clause BSD License": "BSD-3-Clause"}
MIT_TEXT = "Permission is hereby granted, free of charge"
MIT_BY_ITS_TEXT = {"huey", "skops"}  # their metadata name no licence


def needed(
    name: str = "madpipe", known: dict[str, metadata.Distribution] | None = None
) -> dict[str, metadata.Distribution]:
    """madpipe's dependencies at run time, and theirs, as installed."""
    known = {} if known is None else known
    known[canonicalize_name(name)] = metadata.distribution(name)
    for requirement in map(Requirement, metadata.requires(name) or []):
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and canonicalize_name(requirement.name) not in known:
            needed(requirement.name, known)
    return known


NEEDED = needed()


def licences(distribution: metadata.Distribution) -> set[str]:
    """SPDX names: of the expression, else of the classifiers, else of the free text; empty where nothing is said."""
    facts = distribution.metadata
    if expression := facts.get("License-Expression"):
        return set(re.split(r" (?:AND|OR) |[()]", expression)) - {""}
    stated = [line.rpartition(" :: ")[2] for line in facts.get_all("Classifier") or [] if line.startswith("License ::")]
    if known := {CLASSIFIERS.get(name, name) for name in stated} - {"OSI Approved"}:
        return known
    return {WORDS.get(word, word) for word in (facts.get("License") or "").split(" AND ") if word}


@pytest.mark.parametrize("name", sorted(NEEDED.keys() - MIT_BY_ITS_TEXT))
def test_the_licence_is_one_that_is_allowed(name: str):
    stated = licences(NEEDED[name])
    assert stated
    assert stated <= ALLOWED, f"{name}: {stated - ALLOWED} is not among those allowed"


@pytest.mark.parametrize("name", sorted(MIT_BY_ITS_TEXT))
def test_a_licence_that_is_not_stated_is_read_from_its_text(name: str):
    files = [path for path in NEEDED[name].files or [] if "license" in path.name.lower()]
    assert any(MIT_TEXT in path.read_text() for path in files)
    assert licences(NEEDED[name]) == set(), "it states one now: take it off the list"


def test_the_walk_reaches_what_is_needed_by_others():
    assert {"lightning", "torchmetrics", "mlflow", "sqlalchemy", "torch", "sympy"} <= NEEDED.keys()
    assert "pytest" not in NEEDED
