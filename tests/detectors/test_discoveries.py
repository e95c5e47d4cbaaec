"""False-discovery control: what it flags, and how many inputs the smallest p-value needs before it can flag any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madpipe.detectors.discoveries import adjusted_p_values, fewest_discoveries


def test_a_case_by_hand():
    # Sorted .01 .02 .03 .5: p m / rank = .04 .04 .04 .5, least from the right .04 .04 .04 .5.
    np.testing.assert_allclose(adjusted_p_values([0.5, 0.01, 0.03, 0.02]), [0.5, 0.04, 0.04, 0.04])


def test_no_input_at_all():
    assert adjusted_p_values([]).shape == (0,)


@given(
    q=st.sampled_from([0.01, 0.05, 0.1, 0.3]),
    inputs=st.integers(1, 60),
    calibration_size=st.sampled_from([9, 19, 99, 199, 2000]),
)
def test_the_floor_tells_how_many_it_takes(q, inputs, calibration_size):
    """With k inputs at the smallest p-value and all others at 1, some are flagged from k = fewest on and not before."""
    fewest = fewest_discoveries(q, inputs, calibration_size)
    for k in range(inputs + 1):
        p = np.where(np.arange(inputs) < k, 1 / (calibration_size + 1), 1.0)
        flagged = int((adjusted_p_values(p) <= q * (1 + 1e-9)).sum())
        assert flagged == (k if k >= fewest else 0)


def test_of_what_is_flagged_about_the_asked_share_is_normal():
    """500 batches of 180 normal and 20 anomalous inputs against one calibration each: mean false share <= q."""
    random, shares = np.random.default_rng(0), []
    for _ in range(500):
        calibration, scores = np.sort(random.normal(size=1000)), random.normal(size=200)
        scores[:20] -= 4
        flagged = adjusted_p_values((1 + np.searchsorted(calibration, scores, "right")) / 1001) <= 0.1
        shares.append(flagged[20:].sum() / max(flagged.sum(), 1))
    assert np.mean(shares) == pytest.approx(0.09, abs=0.02)  # q (180 / 200), give or take three standard errors
