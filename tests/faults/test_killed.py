"""A fit that is killed or told to stop at any moment is ended by the same command at the uninterrupted result."""

import os
import random
import signal
import time

import pytest

from tests.faults.conftest import ending, final, wait_until

KILLS = int(os.environ.get("MADPIPE_FAULTS_KILLS", "2"))


@pytest.mark.soak
@pytest.mark.parametrize("kill", range(KILLS))
def test_a_fit_killed_at_a_random_moment_is_resumed_to_the_same_bytes(place, reference, tried, kill):
    moment = random.Random(kill).random() * reference.seconds
    process = place.fit()
    wait_until((place.folder / "result.partial").exists, process)
    time.sleep(moment)
    process.kill()
    ending(process)
    tried("SIGKILL of fit at a random moment")
    place.refuse_corrupt_store()
    resumed = ending(place.fit())
    assert resumed.code == 0, (moment, resumed.talk)
    assert final(place.output) == reference.final
    assert not (place.folder / "result.partial").exists()
    place.refuse_corrupt_store()
    assert place.runs() == [("decomposition", "FINISHED"), ("detector", "FINISHED")]


@pytest.mark.soak
def test_a_fit_told_to_stop_leaves_a_checkpoint_and_goes_on(place, reference, tried):
    process = place.fit()
    checkpoint = place.folder / "result.partial" / "checkpoints" / "0" / "last.ckpt"
    wait_until(checkpoint.exists, process)
    process.send_signal(signal.SIGTERM)
    told = ending(process)
    tried("SIGTERM")
    assert (told.code, told.last) == (143, "madpipe: stopped by SIGTERM.")
    assert checkpoint.exists()
    assert not place.output.exists()
    place.refuse_corrupt_store()
    assert place.runs() == [("decomposition", "KILLED")]
    resumed = ending(place.fit())
    assert resumed.code == 0, resumed.talk
    assert final(place.output) == reference.final
    assert place.runs() == [("decomposition", "FINISHED"), ("detector", "FINISHED")]
