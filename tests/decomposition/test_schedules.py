"""How coefficients move with training progress."""

import pytest

from madpipe.decomposition.schedules import cosine, geometric, linear


@pytest.mark.parametrize(("t", "value"), [(0.0, 2.0), (0.5, 1.1), (1.0, 0.2), (1.5, 0.2)])
def test_a_half_cosine_falls_from_the_peak_to_its_last_fraction(t: float, value: float):
    # halfway: 2 * (0.1 + 0.9 * 0.5) = 1.1
    assert cosine(t, 2.0, 0.1) == pytest.approx(value)


@pytest.mark.parametrize(("t", "value"), [(0.0, 0.0), (0.1, 1.0), (0.2, 2.0), (0.6, 1.1), (1.0, 0.2)])
def test_a_warm_up_rises_first(t: float, value: float):
    assert cosine(t, 2.0, 0.1, warmup=0.2) == pytest.approx(value)


@pytest.mark.parametrize(("t", "value"), [(-1.0, 2.0), (0.0, 2.0), (0.5, 1.25), (1.0, 0.5), (2.0, 0.5)])
def test_a_line_ends_where_it_ends(t: float, value: float):
    assert linear(t, 2.0, 0.5) == value


@pytest.mark.parametrize(("t", "value"), [(-1.0, 4.0), (0.0, 4.0), (0.5, 2.0), (1.0, 1.0), (2.0, 1.0)])
def test_a_geometric_schedule_falls_by_equal_factors(t: float, value: float):
    assert geometric(t, 4.0, 1.0) == pytest.approx(value)
