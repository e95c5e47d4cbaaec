"""Atoms are unit rank-one directions; response atoms of lone features are the parts of W that read them."""

from itertools import islice

import pytest
import torch
from torch import nn

from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites
from madpipe.decomposition.atoms import MOST, gradient_atoms, response_atoms

FEATURES, WIDTH, OUT = 6, 10, 4


@pytest.fixture
def features() -> torch.Tensor:
    """Six directions in ten dimensions, oblique to each other: [6, 10]."""
    return nn.functional.normalize(torch.randn(FEATURES, WIDTH, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def trusted(features) -> torch.Tensor:
    """Sums of few features: lone ones most of the time."""
    generator = torch.Generator().manual_seed(1)
    amounts = torch.rand(4000, FEATURES, generator=generator) * 2 - 1
    return amounts * (torch.rand(amounts.shape, generator=generator) < 0.1) @ features


@pytest.fixture
def model() -> ComponentModel:
    torch.manual_seed(2)
    target = nn.Sequential(nn.Linear(WIDTH, OUT, bias=False), nn.ReLU(), nn.Linear(OUT, 3)).requires_grad_(False)
    sites = find_sites(target)
    return ComponentModel(target, sites, [1] * len(sites))


def pools(model, trusted):
    generator = torch.Generator().manual_seed(3)
    yield from gradient_atoms(model, trusted, generator)
    for i in range(len(model.sites)):
        yield from islice(response_atoms(model, i, trusted, generator), 2)


def test_directions_have_length_one_and_rows_of_nothing_give_none(model, trusted):
    for reads, writes in pools(model, trusted):
        assert 0 < len(reads) == len(writes) <= MOST
        for directions in (reads, writes):
            torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(directions)))


def test_a_lone_feature_gives_the_part_of_the_weight_that_reads_it(model, trusted, features):
    """With dual directions d_i of the features f_i (d_i . f_j = 0 for j != i), W = sum_i d_i (f_i W) on their span."""
    reads, writes = next(response_atoms(model, 0, trusted, torch.Generator().manual_seed(3)))
    response = nn.functional.normalize(features @ model.weight(0))
    answers = (reads @ features.t()).abs()  # of each atom to each feature
    lone = answers.topk(2, dim=1).values
    alone = lone[:, 1] < 0.1 * lone[:, 0]
    assert int(alone.sum()) > len(reads) / 3
    feature = answers[alone].argmax(1)
    assert feature.unique().tolist() == list(range(FEATURES))
    assert ((writes[alone] * response[feature]).sum(1).abs() > 0.99).all()


def test_a_gradient_is_of_active_neurons_alone_and_a_response_of_all(model, trusted):
    generator = torch.Generator().manual_seed(3)
    _, gradients = next(gradient_atoms(model, trusted, generator))
    _, responses = next(response_atoms(model, 0, trusted, generator))
    assert (gradients == 0).any()
    assert (responses != 0).all()


def test_positions_of_a_convolution_are_drawn_at_random():
    target = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    sites = find_sites(target)
    model = ComponentModel(target, sites, [1] * len(sites))
    x = torch.randn(300, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    reads, writes = next(response_atoms(model, 0, x, torch.Generator().manual_seed(0)))
    assert (reads.shape[1], writes.shape[1]) == (4, 3)
