"""The sparse start: a site's weight written as a sum of few rank-one atoms, each of use on few trusted inputs.

Two kinds of atoms are tried (atoms.py), gradient atoms first. W = sum_k a_k r_k w_k^T is solved for a >= 0 under a
small price on how often an atom is of use (non-negative least squares: its solutions are sparse), and atoms of use on
the same inputs, or nearly parallel ones, are joined and split again by their singular vectors. A form is taken where
each input's used atoms alone reproduce trusted outputs: of several random pools, the one of fewest gradient atoms, or
that of response atoms which reproduces them best. Where neither does (an identity between layers, a weight that every
input uses whole), the site starts at its singular vectors. Not in the papers of APD, SPD or VPD, which start at random.

Legend: N trusted rows, n atoms, I = d_in, O = d_out, D output directions.
"""

from dataclasses import dataclass
from itertools import islice

import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from madpipe.components.masks import FixedWeights, InputMask, Masks, SiteMask
from madpipe.components.model import ComponentModel
from madpipe.components.sites import Site
from madpipe.decomposition.atoms import Atoms, gradient_atoms, response_atoms
from madpipe.decomposition.attributions import OutputGradients, output_gradients
from madpipe.decomposition.losses import OutputMetric

SHOWN = 8192  # trusted rows, the first ones, from which gradient atoms are drawn
ROWS = 2000  # trusted rows on which it is seen when an atom is of use
POOLS = 16  # random pools of gradient atoms: one in two finds an atom too many
RESPONSE_POOLS = 4  # one in three merges two features or misses one
PRICE = 1e-2  # of the squared sum of amounts times usage, against the squared error: breaks ties, no more
RESPONSE_PRICE = 1e-1  # prefers inputs of one feature to mixtures of several
USED = 0.05  # of an atom's largest attribution: above it, the atom is of use on that input
JOINED = 0.7  # Jaccard index of two atoms' uses above which they are one mechanism
PARALLEL = (
    0.6  # cosine of two response atoms, matrices of rank one, above which they are one: the two signs of a feature
)
NEGLIGIBLE = 0.1  # of the largest singular value of joined atoms, and of the largest response atom
REST = 0.05  # of |W|: a larger difference between the weight and its gradient atoms becomes atoms too
UNREPRODUCED = 0.02  # of the divergence that leaving the site out makes: above it gradient atoms are no explanation
RESPONSE_UNREPRODUCED = 0.1  # the same of response atoms, which leave out what is negligible
RARER = 0.7  # gradient atoms must each be of use on fewer inputs than this share of what a singular vector is
SPARSER = 0.5  # response atoms must be of use on fewer inputs than this share of what singular vectors are


@dataclass(frozen=True)
class SparseForm:
    """W ~ sum_k V[:, k] U[k, :]: V [I, n], U [n, O], largest first; `used` [N, n] on which of the trusted `rows` [N]
    each is of use.

    `unreproduced` is the divergence with used atoms alone over that with the site left out. `sparse` is False where
    the atoms are the weight's singular vectors.
    """

    V: Tensor
    U: Tensor
    used: Tensor
    rows: Tensor
    unreproduced: float
    sparse: bool


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
    usage = _Usage(model, shown, torch.randperm(len(shown), generator=generator)[:ROWS], metric)
    found = _gradient_forms(usage, shown, generator, pools)
    return {
        site.name: found[i] if i in found else _response_form(usage, i, trusted, generator)
        for i, site in enumerate(sites)
    }


def _gradient_forms(usage: "_Usage", trusted: Tensor, generator: torch.Generator, pools: int) -> dict[int, SparseForm]:
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


class _Usage:
    """When atoms are of use: attributions on fixed trusted rows, from one batched backward pass."""

    def __init__(self, model: ComponentModel, trusted: Tensor, rows: Tensor, metric: OutputMetric):
        self.model, self.rows, self.metric = model, rows, metric
        self.x = x = trusted[rows]
        self._indices = range(len(model.sites))
        self.gradients: OutputGradients = output_gradients(model, x)
        with torch.no_grad():
            self.clean = model.clean_forward(x).output
            self.left_out = [self._divergence(i, FixedWeights(torch.zeros_like(model.delta(i)))) for i in self._indices]

    @torch.no_grad()
    def attributions(self, index: int, V: Tensor, U: Tensor) -> Tensor:
        """sqrt(sum_d A_d^2) of atoms V [I, n], U [n, O] on each row: [N, n]; a direction at a time, to save memory."""
        total = torch.zeros(len(self.x), V.shape[1])
        uses = self.gradients.of(index)
        operation = self.model.operation(index)
        inner = [operation.inner(use.site_input, V[None])[0] for use in uses]
        for d in range(len(uses[0].gradients)):
            effect = torch.zeros_like(total)
            for use, read in zip(uses, inner, strict=True):
                product = read * (operation.positions(use.gradients[d], 1)[0] @ U.t())
                effect += product.flatten(1, -2).sum(1) if product.ndim > 2 else product
            total += effect.square()
        return total.sqrt()

    def used(self, index: int, V: Tensor, U: Tensor) -> Tensor:
        attributions = self.attributions(index, V, U)
        return attributions > USED * attributions.amax(0).clamp(min=1e-12)

    def form(self, index: int, V: Tensor, U: Tensor, *, sparse: bool) -> SparseForm:
        used = self.used(index, V, U)
        return SparseForm(V, U, used, self.rows, self.unreproduced(index, V, U, used), sparse)

    @torch.no_grad()
    def unreproduced(self, index: int, V: Tensor, U: Tensor, used: Tensor) -> float:
        """Divergence of the pass with only used atoms at site `index`, over that without the site."""
        self.model.V[index].data, self.model.U[index].data = V[None], U[None]
        kept = self._divergence(index, InputMask(used[None].to(V.dtype)))
        return kept / max(self.left_out[index], 1e-30)

    def _divergence(self, index: int, mask: SiteMask) -> float:
        masks: Masks = {self.model.sites[index].name: mask}
        return float(self.metric.kl(self.clean, self.model.masked_forward(self.x, masks).output).mean())


def _gradient_form(usage: _Usage, index: int, atoms: Atoms) -> SparseForm:
    """The sum of atoms found in one pool."""
    weight = usage.model.weight(index)
    V, U = _joined(*_solved(usage, index, atoms, PRICE), usage, index)
    rest = weight - V @ U
    if rest.norm() > REST * weight.norm():
        left, right = _singular(rest, NEGLIGIBLE)
        V, U = torch.cat([V, left], 1), torch.cat([U, right])
    return usage.form(index, V, U, sparse=True)


def _response_form(usage: _Usage, index: int, trusted: Tensor, generator: torch.Generator) -> SparseForm:
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


def _response_sum(usage: _Usage, index: int, atoms: Atoms) -> SparseForm:
    """The sum of atoms found in one pool, up to what is negligible."""
    V, U = _joined_to_leaders(*_solved(usage, index, atoms, RESPONSE_PRICE), usage, index)
    sizes = V.norm(dim=0) * U.norm(dim=1)
    kept = sizes > NEGLIGIBLE * sizes.max()
    return usage.form(index, *_closed(V[:, kept], U[kept], usage.model.weight(index)), sparse=True)


def _closed(V: Tensor, U: Tensor, weight: Tensor, sweeps: int = 2) -> tuple[Tensor, Tensor]:
    """V [I, n] and U [n, O], moved a little, so that they sum to the weight on what they span.

    Alternately U, with V's columns at length one, and V, with U's rows at length one, minimise
    |W - V U|^2 + |change|^2: few small steps of many atoms, where an exact solution would turn a few by much.
    """
    for _ in range(sweeps):
        for _ in ("U", "V"):  # the second is the first of the transposed problem
            lengths = V.norm(dim=0)
            V, U = V / lengths, U * lengths[:, None]
            ridge = V.t() @ V + torch.eye(V.shape[1])
            U = U + torch.linalg.solve(ridge, V.t() @ (weight - V @ U))
            V, U, weight = U.t(), V.t(), weight.t()
    return V, U


def _solved(usage: _Usage, index: int, atoms: Atoms, price: float) -> tuple[Tensor, Tensor]:
    """V [I, n], U [n, O] of the atoms that take part in the sum, each with its amount."""
    reads, writes = atoms
    weight = usage.model.weight(index)
    writes = writes * ((reads @ weight) * writes).sum(1).sign()[:, None]  # so that each atom points along W
    prices = price**0.5 * _usage_share(usage.attributions(index, reads.t(), writes))
    amounts = _amounts(weight, reads, writes, prices)
    kept = amounts > 0.02 * amounts.max()
    return reads[kept].t(), writes[kept] * amounts[kept, None]


def _usage_share(attributions: Tensor) -> Tensor:
    """How widely an atom is of use, [n] in [0, 1]: mean root of its attribution relative to its largest."""
    return (attributions / attributions.amax(0).clamp(min=1e-12)).sqrt().mean(0)


def _amounts(weight: Tensor, reads: Tensor, writes: Tensor, price: Tensor) -> Tensor:
    """a >= 0 minimising |W - sum_k a_k r_k w_k^T|^2 + (sum_k price_k a_k)^2, through the Gram matrix: [n].

    Atoms are factors, so that nothing of size [n, I, O] is built.
    """
    r, w, W = reads.double(), writes.double(), weight.double()
    gram = (r @ r.t()) * (w @ w.t()) + torch.outer(price.double(), price.double())
    towards = ((r @ W) * w).sum(1)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-10 * values[-1]  # rounding noise of the Gram matrix lies below
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    matrix, wanted = roots[:, None] * vectors.t(), (vectors.t() @ towards) / roots
    amounts, _ = nnls(matrix.numpy(), wanted.numpy(), maxiter=100 * len(r))
    return torch.from_numpy(amounts).to(weight.dtype)


def _joined(V: Tensor, U: Tensor, usage: _Usage, index: int) -> tuple[Tensor, Tensor]:
    """Atoms of use on the same inputs, replaced by the singular vectors of their sum; largest first."""
    return _resolved(V, U, _connected(_of_use_together(V, U, usage, index)))


def _joined_to_leaders(V: Tensor, U: Tensor, usage: _Usage, index: int) -> tuple[Tensor, Tensor]:
    """The same of response atoms, and of those whose matrices are nearly parallel, each with a larger one.

    Not through others: an atom of two features at once is near to both, which are not near to each other.
    """
    v, u = V / V.norm(dim=0), U / U.norm(dim=1, keepdim=True)
    near = _of_use_together(V, U, usage, index) | ((v.t() @ v) * (u @ u.t()) > PARALLEL)
    return _resolved(V, U, _led(near, V.norm(dim=0) * U.norm(dim=1)))


def _of_use_together(V: Tensor, U: Tensor, usage: _Usage, index: int) -> Tensor:
    """Bool [n, n]: whether the Jaccard index of two atoms' uses is above JOINED."""
    used = usage.used(index, V, U).double()
    both, each = used.t() @ used, used.sum(0)
    return both / (each[:, None] + each[None] - both).clamp(min=1) > JOINED


def _resolved(V: Tensor, U: Tensor, groups: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Each group of atoms as the singular vectors of its sum; largest first."""
    factors = [_singular(V[:, group] @ U[group], NEGLIGIBLE) for group in groups]
    V, U = torch.cat([v for v, _ in factors], 1), torch.cat([u for _, u in factors])
    order = (V.norm(dim=0) * U.norm(dim=1)).argsort(descending=True)
    return V[:, order], U[order]


def _led(near: Tensor, sizes: Tensor) -> list[list[int]]:
    """Groups of a symmetric bool matrix [n, n]: the largest that is left, with all that are left and near to it."""
    left, groups = torch.ones(len(sizes), dtype=torch.bool), []
    for leader in sizes.argsort(descending=True).tolist():
        if left[leader]:
            group = near[leader] & left
            group[leader] = True
            left &= ~group
            groups.append(group.nonzero().flatten().tolist())
    return groups


def _connected(linked: Tensor) -> list[list[int]]:
    """Connected groups of a symmetric bool matrix [n, n]."""
    left, groups = set(range(len(linked))), []
    while left:
        front, group = {min(left)}, set[int]()
        while front:
            group |= front
            front = {j for i in front for j in linked[i].nonzero().flatten().tolist()} - group
        left -= group
        groups.append(sorted(group))
    return groups


def _singular(matrix: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """V [I, r], U [r, O] with V U = `matrix` up to singular values below `least` of the largest."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = values > least * values[0].clamp(min=1e-30)
    roots = values[kept].sqrt()
    return (left[:, kept] * roots).to(matrix.dtype), (roots[:, None] * right[kept]).to(matrix.dtype)


def _singular_form(usage: _Usage, index: int) -> SparseForm:
    V, U = _singular(usage.model.weight(index), 1e-4)
    return usage.form(index, V, U, sparse=False)
