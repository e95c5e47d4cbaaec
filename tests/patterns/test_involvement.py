"""Which parts make an input unusual, each against its own trusted size."""

import pytest
import torch

from madpipe.patterns.involvement import Involvement
from madpipe.patterns.observation import Observer


def fitted(method, rows) -> Involvement:
    involvement = Involvement(Observer(method))
    involvement.fit(Observer(method).batches(rows, 16))
    return involvement


def ratios(involvement: Involvement, observation) -> torch.Tensor:
    return involvement.ratios(observation)


def test_parts_are_the_alive_slots_and_a_delta_per_site(partial, rows):
    wanted = {f"{site}.{k}" for site in ("fc1", "fc2", "head") for k in range(0, 8, 2)}
    assert set(fitted(partial, rows).names) == wanted | {f"delta@{site}" for site in ("fc1", "fc2", "head")}


def test_every_part_has_one_size_per_input(partial, rows, observe):
    involvement = fitted(partial, rows)
    sizes = involvement.sizes(observe(partial, rows))
    assert sizes.shape == (len(rows), len(involvement.names))
    assert (sizes >= 0).all()


def test_a_components_size_is_what_it_reads_times_what_it_writes(partial, rows, observe):
    involvement = fitted(partial, rows)
    V, U = partial.model.V[0][1], partial.model.U[0][1]  # the variant that was to match hidden activations
    found = involvement.sizes(observe(partial, rows))[:, involvement.names.index("fc1.4")]
    torch.testing.assert_close(found.double(), (rows @ V[:, 4]).abs() * U[4].norm(), rtol=1e-4, atol=1e-6)


def test_a_deltas_size_is_what_the_alive_slots_leave_out(partial, rows, observe):
    involvement = fitted(partial, rows)
    kept = partial.model.V[0][1][:, ::2] @ partial.model.U[0][1][::2]
    wanted = (rows @ (partial.model.weight(0) - kept)).square().mean(1).sqrt()
    found = involvement.sizes(observe(partial, rows))[:, involvement.names.index("delta@fc1")]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)


def test_over_positions_the_largest_size_counts(convolutional, images, observe):
    involvement = fitted(convolutional, images)
    V, U = convolutional.model.V[0][1], convolutional.model.U[0][1]
    read = torch.nn.functional.conv2d(images, V[:, 2].view(1, 1, 3, 3), padding=1).flatten(1)
    found = involvement.sizes(observe(convolutional, images))[:, involvement.names.index("conv1.2")]
    torch.testing.assert_close(found.double(), read.abs().amax(1) * U[2].norm(), rtol=1e-4, atol=1e-6)


def test_one_trusted_input_in_twenty_exceeds_a_parts_scale(partial, rows, observe):
    above = (ratios(fitted(partial, rows), observe(partial, rows)) > 1).double().mean(0)
    assert (above - 0.05).abs().max() <= 1 / len(rows)


def test_the_names_on_top_are_parts(partial, rows, observe):
    involvement = fitted(partial, rows)
    for names in involvement.top(observe(partial, rows), 3):
        assert len(set(names)) == 3
        assert set(names) <= set(involvement.names)


def test_the_most_involved_part_comes_first(partial, rows, observe):
    involvement, observation = fitted(partial, rows), observe(partial, rows)
    order = ratios(involvement, observation)
    for row, names in enumerate(involvement.top(observation, 5)):
        values = [float(order[row, involvement.names.index(name)]) for name in names]
        assert values == sorted(values, reverse=True)
        assert values[0] == float(order[row].max())


def test_more_parts_than_there_are_give_all_of_them(partial, rows, observe):
    involvement = fitted(partial, rows)
    assert sorted(involvement.top(observe(partial, rows[:1]), 999)[0]) == sorted(involvement.names)


def test_a_part_silent_on_trusted_rows_is_on_top_when_it_speaks(target, make, rows, observe):
    """Trusted rows never excite input 4; slot 0 of fc1 reads nothing else."""
    rows[:, 4] = 0.0
    method = make(target, rows)
    method.model.V[0].data[:, :, 0] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    method.model.U[0].data[:, 0] = 1.0
    involvement = fitted(method, rows)
    assert involvement.scale.isfinite().all()
    assert (involvement.scale > 0).all()
    unusual = rows[:1].clone()
    unusual[:, 4] = 1.0
    # slot 0 and the delta, which holds what input 4 does in the target, are the parts trusted rows leave silent
    assert "fc1.0" in involvement.top(observe(method, unusual), 2)[0]
    assert "fc1.0" not in involvement.top(observe(method, rows[:1]), 2)[0]


@pytest.mark.parametrize("network", ["partial", "convolutional"])
def test_with_no_slot_alive_the_deltas_remain(request, network: str, rows, images, observe):
    method = request.getfixturevalue(network)
    for i in range(len(method.model.sites)):
        method.alive(i)[:] = False
    x = images if network == "convolutional" else rows
    assert set(fitted(method, x).names) == {f"delta@{site.name}" for site in method.model.sites}
    assert len(fitted(method, x).top(observe(method, x), 3)[0]) == 3


def test_with_everything_explained_the_deltas_are_silent(exact, rows, observe):
    involvement = fitted(exact, rows)
    deltas = [i for i, name in enumerate(involvement.names) if name.startswith("delta@")]
    assert involvement.sizes(observe(exact, rows))[:, deltas].max() < 1e-6


def test_several_variants_that_match_hidden_activations_are_told_apart(target, make, rows):
    variants = [{"name": name, "hidden_coefficient": 1.0} for name in ("a", "b")]
    names = fitted(make(target, rows, variants=variants), rows).names
    assert {name.partition(":")[0] for name in names if not name.startswith("delta@")} == {"a", "b"}
    assert len(set(names)) == len(names)
