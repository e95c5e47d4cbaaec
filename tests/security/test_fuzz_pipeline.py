"""A pipeline folder of which a stranger mutated one file, or the manifest, and made the digests agree."""

import shutil
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madpipe.errors import MadpipeError


@pytest.fixture(scope="module")
def made(fitted, targets, tmp_path_factory):
    def copy():
        return shutil.copytree(fitted.pipeline, tmp_path_factory.mktemp("fuzz") / "pipeline")

    return {"files": targets.pipeline_target(copy()), "manifest": targets.manifest_target(copy())}


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["files", "manifest"])
def test_a_mutated_pipeline_is_read_or_refused(kind, made, mutated, targets):
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data):
        seed = data.draw(st.sampled_from(made[kind].seeds))
        first = 1 if kind == "files" else 0  # the byte that says which file
        content = seed[:first] + data.draw(mutated([seed[first:]]))
        with suppress(MadpipeError):
            made[kind].run(content)

    with pytest.MonkeyPatch.context() as patch:
        targets.forbid_pickles(patch.setattr)
        holds()
