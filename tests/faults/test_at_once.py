"""Two fits at once: into one folder the second is refused; into one store both are logged."""

import pytest

from tests.faults.conftest import ending, final, wait_until


@pytest.mark.soak
def test_of_two_fits_into_one_folder_the_second_is_refused_and_the_first_unharmed(place, reference, tried):
    first = place.fit()
    wait_until((place.folder / "result.partial" / "lock").exists, first)
    second = ending(place.fit())
    tried("two fits at once on one output folder")
    assert second.code == 2
    assert second.last == (
        f"madpipe: another process is writing {place.output} now; wait for it, or choose another -o."
    )
    told = ending(first)
    assert told.code == 0, told.talk
    assert final(place.output) == reference.final


@pytest.mark.soak
def test_two_fits_into_one_new_store_are_both_logged(place, reference, tried):
    (place.folder / "mlflow.db").unlink()
    both = [place.fit(output=name) for name in ("one", "two")]
    told = [ending(process) for process in both]
    tried("two fits at once on one store")
    assert [each.code for each in told] == [0, 0], told
    assert final(place.folder / "one") == final(place.folder / "two") == reference.final
    place.refuse_corrupt_store()
    assert sorted(place.runs()) == [("decomposition", "FINISHED")] * 2 + [("detector", "FINISHED")] * 2
