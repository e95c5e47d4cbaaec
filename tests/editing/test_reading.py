"""What parts read: shares of the effect by gradient, and what a score loses when a feature is replaced."""

import numpy as np
import pytest
import torch
from torch import nn

from madpipe.components.masks import FixedWeights
from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites
from madpipe.editing.reading import direction, pushes_along, read_by_parts
from madpipe.editing.replacement import lost_by_replacing


def model_of(target: nn.Module) -> ComponentModel:
    sites = find_sites(target)
    return ComponentModel(target.double(), sites, [1] * len(sites))


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["linear", "relu", "conv"])
def test_without_biases_shares_add_up_to_the_effect_of_a_part_of_the_first_site(kind):
    targets = {
        "linear": nn.Sequential(nn.Linear(5, 3, bias=False)),
        "relu": nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)),
        "conv": nn.Sequential(nn.Conv2d(2, 4, 2, bias=False), nn.Flatten(), nn.Linear(16, 3, bias=False)),
    }
    model, x = model_of(targets[kind]), draw(4, 2, 3, 3) if kind == "conv" else draw(4, 5)
    part, effect = 0.3 * draw(*model.weight(0).shape), draw(4, 3)
    site = model.sites[0].name
    read = read_by_parts(model, x, {site: part}, effect)
    rest = FixedWeights((model.weight(0) - part)[None])
    without = model.rebuilt_forward(x, {site: rest}).output[0]
    whole = ((model.clean_forward(x).output[0] - without) * effect).sum(1)
    tolerance = 0.2 if kind == "relu" else 1e-9  # eight steps along a piecewise linear path
    torch.testing.assert_close(read.features.flatten(1).sum(1), whole, atol=tolerance, rtol=tolerance)


def test_a_direction_reads_and_writes_where_the_part_pushes_most():
    model = model_of(nn.Sequential(nn.Linear(3, 2, bias=False)))
    part = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    x, push = torch.tensor([[3.0, 4.0, 5.0]], dtype=torch.float64), torch.tensor([[1.0, 10.0]], dtype=torch.float64)
    found = direction(model, 0, x, part, push)
    assert found.writes.tolist() == [3.0, 8.0]
    assert found.reads.tolist() == [1.0, 20.0, 0.0]
    assert found.push == 83.0  # 3 * 1 + 8 * 10
    assert pushes_along(model, 0, x, found.reads).tolist() == [83.0]


def test_both_bits_of_a_conjunction_and_of_a_parity_are_read():
    x, references = torch.ones(1, 4), torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])
    for score in (lambda rows: rows[:, 0] + rows[:, 1] > 1, lambda rows: rows[:, 0] * rows[:, 1] > 0):
        lost = lost_by_replacing(x, references, lambda rows, score=score: score(rows).double().numpy())
        assert lost.tolist() == [0.5, 0.5, 0.0, 0.0]  # half of the references differ there


def test_replacing_keeps_the_shape_of_the_input_and_asks_in_chunks(monkeypatch):
    monkeypatch.setattr("madpipe.editing.replacement.ROWS", 3)
    x, references = draw(1, 2, 3), draw(2, 2, 3)
    lost = lost_by_replacing(x, references, lambda rows: rows.flatten(1).sum(1).numpy())
    np.testing.assert_allclose(lost, (x[0] - references.mean(0)).numpy())


class OfTokens(nn.Module):
    """Inputs are token numbers, as floats."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.embedding(x.long())).sum(1)


def test_token_numbers_have_no_gradient_but_their_sites_have():
    model = model_of(OfTokens())
    read = read_by_parts(model, torch.tensor([[1.0, 2.0]]).double(), {"linear": model.weight(0)}, draw(1, 3))
    assert read.features is None
    torch.testing.assert_close(read.pushes["linear"], draw(1, 3)[:, None].expand(1, 2, 3))  # of a sum over positions
