"""The sparse start: a site's weight written as a sum of few rank-one atoms, each of use on few trusted inputs.

Two kinds of atoms are tried (atoms.py), gradient atoms first. W = sum_k a_k r_k w_k^T is solved for a >= 0 under a
small price on how often an atom is of use (non-negative least squares: its solutions are sparse), and atoms of use on
the same inputs, or nearly parallel ones, are joined and split again by their singular vectors. A form is taken where
each input's used atoms alone reproduce trusted outputs: of several random pools, the one of fewest gradient atoms, or
that of response atoms which reproduces them best. Where neither does (an identity between layers, a weight that every
input uses whole), the site starts at its singular vectors. Not in the papers of APD, SPD or VPD, which start at random.

Legend: N trusted rows, n atoms, I = d_in, O = d_out.
"""

from itertools import islice

import torch
from torch import Tensor, nn

from madpipe.components.model import ComponentModel
from madpipe.components.sites import Site
from madpipe.decomposition.atom_sums import (
    NEGLIGIBLE,
    amounts_of,
    closed,
    connected_groups,
    led_groups,
    resolved,
    singular_factors,
)
from madpipe.decomposition.atom_usage import AtomUsage, SparseForm
from madpipe.decomposition.atoms import Atoms, gradient_atoms, response_atoms
from madpipe.decomposition.losses import OutputMetric

SHOWN = 8192  # trusted rows, the first ones, from which gradient atoms are drawn
ROWS = 2000  # trusted rows on which it is seen when an atom is of use
POOLS = 16  # random pools of gradient atoms: one in two finds an atom too many
RESPONSE_POOLS = 4  # one in three merges two features or misses one
PRICE = 1e-2  # of the squared sum of amounts times usage, against the squared error: breaks ties, no more
RESPONSE_PRICE = 1e-1  # prefers inputs of one feature to mixtures of several
JOINED = 0.7  # Jaccard index of two atoms' uses above which they are one mechanism
PARALLEL = (
    0.6  # cosine of two response atoms, matrices of rank one, above which they are one: the two signs of a feature
)
REST = 0.05  # of |W|: a larger difference between the weight and its gradient atoms becomes atoms too
UNREPRODUCED = 0.02  # of the divergence that leaving the site out makes: above it gradient atoms are no explanation
RESPONSE_UNREPRODUCED = 0.1  # the same of response atoms, which leave out what is negligible
RARER = 0.7  # gradient atoms must each be of use on fewer inputs than this share of what a singular vector is
SPARSER = 0.5  # response atoms must be of use on fewer inputs than this share of what singular vectors are


def sparse_forms(
    target: nn.Module,
    sites: tuple[Site, ...],
    trusted: Tensor,
    metric: OutputMetric,
    generator: torch.Generator,
    *,
    pools: int = POOLS,
) -> dict[str, SparseForm]:
    """The sparse form of every site of `target` on `trusted` [N, ...], each from the best of `pools` random pools."""
    model = ComponentModel(target, sites, [1] * len(sites))
    shown = trusted[:SHOWN]
    usage = AtomUsage(model, shown, torch.randperm(len(shown), generator=generator)[:ROWS], metric)
    found = _gradient_forms(usage, shown, generator, pools)
    return {
        site.name: found[i] if i in found else _response_form(usage, i, trusted, generator)
        for i, site in enumerate(sites)
    }


def _gradient_forms(usage: AtomUsage, trusted: Tensor, generator: torch.Generator, pools: int) -> dict[int, SparseForm]:
    """Of the sites that gradient atoms explain, the form of fewest; a site is given up when the first pool fails."""
    rates = [_rate(_singular_form(usage, i)) for i in range(len(usage.model.sites))]
    found: dict[int, SparseForm] = {}

    def explains(i: int) -> bool:
        return i in found and found[i].unreproduced <= UNREPRODUCED and _rate(found[i]) < RARER * rates[i]

    for done in range(pools):
        for i, atoms in enumerate(gradient_atoms(usage.model, trusted, generator)):
            if len(atoms[0]) and (done == 0 or explains(i)):
                form = _gradient_form(usage, i, atoms)
                found[i] = min(found.get(i, form), form, key=_size)
        if not any(explains(i) for i in found):
            break
    return {i: form for i, form in found.items() if explains(i)}


def _size(form: SparseForm) -> tuple[bool, int, float]:
    return form.unreproduced > UNREPRODUCED, form.U.shape[0], form.unreproduced


def _rate(form: SparseForm) -> float:
    """The share of inputs on which an atom is of use, mean over atoms."""
    return float(form.used.double().mean())


def _gradient_form(usage: AtomUsage, index: int, atoms: Atoms) -> SparseForm:
    """The sum of atoms found in one pool."""
    weight = usage.model.weight(index)
    V, U = _joined(*_solved(usage, index, atoms, PRICE), usage, index)
    rest = weight - V @ U
    if rest.norm() > REST * weight.norm():
        left, right = singular_factors(rest, NEGLIGIBLE)
        V, U = torch.cat([V, left], 1), torch.cat([U, right])
    return usage.form(index, V, U, sparse=True)


def _response_form(usage: AtomUsage, index: int, trusted: Tensor, generator: torch.Generator) -> SparseForm:
    """Of response atoms, where they explain the site better than its singular vectors, or these.

    Of several pools the one of least divergence times atoms in use: two features in one pair of atoms use both for
    either, and a feature without an atom is not reproduced.
    """
    singular = _singular_form(usage, index)
    pools = islice(response_atoms(usage.model, index, trusted, generator), RESPONSE_POOLS)
    forms = [_response_sum(usage, index, atoms) for atoms in pools if len(atoms[0])]
    if not forms:  # trusted inputs leave the site at zero
        return singular
    best = min(forms, key=lambda form: form.unreproduced * float(form.used.sum()))
    sparser = best.used.sum() < SPARSER * singular.used.sum()
    return best if sparser and best.unreproduced <= RESPONSE_UNREPRODUCED else singular


def _response_sum(usage: AtomUsage, index: int, atoms: Atoms) -> SparseForm:
    """The sum of atoms found in one pool, up to what is negligible."""
    V, U = _joined_to_leaders(*_solved(usage, index, atoms, RESPONSE_PRICE), usage, index)
    sizes = V.norm(dim=0) * U.norm(dim=1)
    kept = sizes > NEGLIGIBLE * sizes.max()
    return usage.form(index, *closed(V[:, kept], U[kept], usage.model.weight(index)), sparse=True)


def _solved(usage: AtomUsage, index: int, atoms: Atoms, price: float) -> tuple[Tensor, Tensor]:
    """V [I, n], U [n, O] of the atoms that take part in the sum, each with its amount."""
    reads, writes = atoms
    weight = usage.model.weight(index)
    writes = writes * ((reads @ weight) * writes).sum(1).sign()[:, None]  # so that each atom points along W
    prices = price**0.5 * _usage_share(usage.attributions(index, reads.t(), writes))
    amounts = amounts_of(weight, reads, writes, prices)
    kept = amounts > 0.02 * amounts.max()
    return reads[kept].t(), writes[kept] * amounts[kept, None]


def _usage_share(attributions: Tensor) -> Tensor:
    """How widely an atom is of use, [n] in [0, 1]: mean root of its attribution relative to its largest."""
    return (attributions / attributions.amax(0).clamp(min=1e-12)).sqrt().mean(0)


def _joined(V: Tensor, U: Tensor, usage: AtomUsage, index: int) -> tuple[Tensor, Tensor]:
    """Atoms of use on the same inputs, replaced by the singular vectors of their sum; largest first."""
    return resolved(V, U, connected_groups(_of_use_together(V, U, usage, index)))


def _joined_to_leaders(V: Tensor, U: Tensor, usage: AtomUsage, index: int) -> tuple[Tensor, Tensor]:
    """The same of response atoms, and of those whose matrices are nearly parallel, each with a larger one.

    Not through others: an atom of two features at once is near to both, which are not near to each other.
    """
    v, u = V / V.norm(dim=0), U / U.norm(dim=1, keepdim=True)
    near = _of_use_together(V, U, usage, index) | ((v.t() @ v) * (u @ u.t()) > PARALLEL)
    return resolved(V, U, led_groups(near, V.norm(dim=0) * U.norm(dim=1)))


def _of_use_together(V: Tensor, U: Tensor, usage: AtomUsage, index: int) -> Tensor:
    """Bool [n, n]: whether the Jaccard index of two atoms' uses is above JOINED."""
    used = usage.used(index, V, U).double()
    both, each = used.t() @ used, used.sum(0)
    return both / (each[:, None] + each[None] - both).clamp(min=1) > JOINED


def _singular_form(usage: AtomUsage, index: int) -> SparseForm:
    V, U = singular_factors(usage.model.weight(index), 1e-4)
    return usage.form(index, V, U, sparse=False)
