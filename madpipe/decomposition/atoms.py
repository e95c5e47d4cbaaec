"""Pools of rank-one atoms from which a site's weight may be summed, each taken from what one trusted input does there.

Gradient atoms read what the site reads and write along the gradient of a random mix of outputs: where one mechanism
runs, and it moves outputs of its own, the atom is that mechanism. Response atoms read along the dual of what the site
reads, S^-1 x with S the second moment, and write what the site writes in answer, x W: where sparse features f_i sum to
what is read, an input of one feature alone gives exactly the part of W that reads it, whatever its neurons do after.
Per-input gradients as directions of a parameter decomposition: Chrisman et al., L3D (arXiv 2504.00194).

Legend: N trusted rows, n atoms, I = d_in, O = d_out, P positions.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from madpipe.components.model import ComponentModel
from madpipe.decomposition.attributions import output_gradients

MOST = 1000  # atoms of a pool: solving for their sum takes seconds there, half a minute at twice as many
SPANNED = 1e-4  # of the largest second moment: directions that trusted inputs excite less have no dual

Atoms = tuple[Tensor, Tensor]
"""Unit reading directions [n, I] and unit writing directions [n, O]."""


def gradient_atoms(model: ComponentModel, trusted: Tensor, generator: torch.Generator) -> Iterator[Atoms]:
    """One pool per site, of random rows of `trusted` [N, ...].

    One random mix of outputs per input, and one random position where there are several. Inputs on which the site
    reads nothing, or on which its output changes nothing, give no atom.
    """
    wanted = _wanted(model)
    x = trusted[torch.randint(len(trusted), (4 * wanted,), generator=generator)]
    x = x[x.flatten(1).abs().sum(1) > 0][:wanted]
    found = output_gradients(model, x, generator)
    for i in range(len(model.sites)):
        use = found.of(i)[0]
        reads, writes = _reads(model, i, use.site_input), model.operation(i).positions(use.gradients[0], 1)[0]
        reads, writes = _with_positions(reads), _with_positions(writes)
        position = torch.randint(reads.shape[1], (len(reads),), generator=generator)
        rows = torch.arange(len(reads))
        yield _unit(reads[rows, position], writes[rows, position])


@torch.no_grad()
def response_atoms(model: ComponentModel, index: int, trusted: Tensor, generator: torch.Generator) -> Iterator[Atoms]:
    """Pools of site `index`, without end; none where it never reads anything.

    S is taken once, on `trusted` [N, ...], at one random position of each row.
    """
    site = model.sites[index]
    reads = _with_positions(_reads(model, index, model.clean_forward(trusted).site_inputs[site.name][0]))
    position = torch.randint(reads.shape[1], (len(reads),), generator=generator)
    reads = reads[torch.arange(len(reads)), position]
    values, vectors = torch.linalg.eigh((reads.t() @ reads / len(reads)).double())
    kept = values > SPANNED * values[-1]
    inverse = ((vectors[:, kept] / values[kept]) @ vectors[:, kept].t()).to(reads.dtype)
    reads = reads[reads.norm(dim=1) > 0]
    while len(reads):
        drawn = reads[torch.randint(len(reads), (_wanted(model),), generator=generator)]
        yield _unit(drawn @ inverse, drawn @ model.weight(index))


def _wanted(model: ComponentModel) -> int:
    return min(max(400, 20 * max(max(site.d_in, site.d_out) for site in model.sites)), MOST)


def _reads(model: ComponentModel, index: int, site_input: Tensor) -> Tensor:
    """The vectors a site's weight is applied to: [N, *P, I]."""
    identity = torch.eye(model.sites[index].d_in, dtype=site_input.dtype)[None]
    return model.operation(index).inner(site_input, identity)[0]


def _with_positions(values: Tensor) -> Tensor:
    """[n, *P, F] -> [n, positions, F], one position where there are none."""
    return values.flatten(1, -2) if values.ndim > 2 else values[:, None]


def _unit(reads: Tensor, writes: Tensor) -> Atoms:
    """Both at length one; rows where one of them is nothing are left out."""
    norms = reads.norm(dim=1), writes.norm(dim=1)
    kept = (norms[0] > 1e-6 * norms[0].max()) & (norms[1] > 1e-6 * norms[1].max())
    return reads[kept] / norms[0][kept, None], writes[kept] / norms[1][kept, None]
