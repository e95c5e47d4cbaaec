"""The sparse start: a site's weight written as a sum of few rank-one atoms, each of use on few trusted inputs.

An atom reads what the site reads on one trusted input, and writes along the gradient of a random mix of outputs on that
input: where one mechanism runs, the atom is that mechanism. W = sum_k a_k r_k w_k^T is solved for a >= 0 under a small
price on how often an atom is of use (non-negative least squares: its solutions are sparse), and atoms of use on the
same inputs are joined and split again by their singular vectors; of several random pools the sum of fewest atoms is
taken. Where it does not reproduce trusted outputs with each input's used atoms alone, the site has no such sparse form
(an identity between layers, say), and starts at its singular vectors. Not in the papers of APD, SPD or VPD, which start
at random; per-input gradients as directions of a parameter decomposition: Chrisman et al., L3D (arXiv 2504.00194).

Legend: N trusted rows, n atoms, I = d_in, O = d_out, D output directions, P positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from madpipe.components.masks import FixedWeights, InputMask, Masks, SiteMask
from madpipe.components.model import ComponentModel
from madpipe.components.sites import Site
from madpipe.decomposition.attributions import OutputGradients, output_gradients
from madpipe.decomposition.losses import OutputMetric

ROWS = 2000  # trusted rows on which it is seen when an atom is of use
POOLS = 16  # random pools, of which the sum of fewest atoms is kept: one pool in two finds an atom too many
PRICE = 1e-2  # of the squared sum of amounts times usage, against the squared error: breaks ties, no more
USED = 0.05  # of an atom's largest attribution: above it, the atom is of use on that input
JOINED = 0.7  # Jaccard index of two atoms' uses above which they are one mechanism
NEGLIGIBLE = 0.1  # of the largest singular value of joined atoms
REST = 0.05  # of |W|: a larger difference between the weight and its atoms becomes atoms too
UNREPRODUCED = 0.02  # of the divergence that leaving the site out makes: above it the sparse form is no explanation


@dataclass(frozen=True)
class SparseForm:
    """W ~ sum_k V[:, k] U[k, :]: V [I, n], U [n, O], largest first; `used` [N, n] on which trusted rows each is of use.

    `unreproduced` is the divergence with used atoms alone over that with the site left out. `sparse` is False where
    the atoms are the weight's singular vectors.
    """

    V: Tensor
    U: Tensor
    used: Tensor
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
    picked = torch.randperm(len(trusted), generator=generator)[:ROWS]
    usage = _Usage(model, trusted[picked], metric)
    found: dict[int, SparseForm] = {}
    for _ in range(pools):
        for i, (reads, writes) in enumerate(_pool(model, trusted, generator)):
            form = _sparse_form(usage, i, reads, writes)
            if i not in found or _rank(form) < _rank(found[i]):
                found[i] = form
    explains = {i: form.unreproduced <= UNREPRODUCED for i, form in found.items()}
    return {site.name: found[i] if explains[i] else _singular_form(usage, i) for i, site in enumerate(sites)}


def _rank(form: SparseForm) -> tuple[int, float]:
    return form.U.shape[0], form.unreproduced


class _Usage:
    """When atoms are of use: attributions on fixed trusted rows, from one batched backward pass."""

    def __init__(self, model: ComponentModel, x: Tensor, metric: OutputMetric):
        self.model, self.x, self.metric = model, x, metric
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
        return SparseForm(V, U, used, self.unreproduced(index, V, U, used), sparse)

    @torch.no_grad()
    def unreproduced(self, index: int, V: Tensor, U: Tensor, used: Tensor) -> float:
        """Divergence of the pass with only used atoms at site `index`, over that without the site."""
        self.model.V[index].data, self.model.U[index].data = V[None], U[None]
        kept = self._divergence(index, InputMask(used[None].to(V.dtype)))
        return kept / max(self.left_out[index], 1e-30)

    def _divergence(self, index: int, mask: SiteMask) -> float:
        masks: Masks = {self.model.sites[index].name: mask}
        return float(self.metric.kl(self.clean, self.model.masked_forward(self.x, masks).output).mean())


def _pool(model: ComponentModel, trusted: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Per site, unit reading directions [n, I] and unit writing directions [n, O] of random trusted inputs.

    One random mix of outputs per input, and one random position where there are several. Inputs on which the site
    reads nothing, or on which its output changes nothing, give no atom.
    """
    wanted = min(max(400, 20 * max(max(site.d_in, site.d_out) for site in model.sites)), 2000)
    x = trusted[torch.randint(len(trusted), (4 * wanted,), generator=generator)]
    x = x[x.flatten(1).abs().sum(1) > 0][:wanted]
    found = output_gradients(model, x, generator)
    for i in range(len(model.sites)):
        use = found.of(i)[0]
        operation = model.operation(i)
        identity = torch.eye(model.sites[i].d_in, dtype=use.site_input.dtype)[None]
        reads = operation.inner(use.site_input, identity)[0]
        writes = operation.positions(use.gradients[0], 1)[0]
        reads, writes = _with_positions(reads), _with_positions(writes)
        position = torch.randint(reads.shape[1], (len(reads),), generator=generator)
        rows = torch.arange(len(reads))
        reads, writes = reads[rows, position], writes[rows, position]
        norms = reads.norm(dim=1), writes.norm(dim=1)
        kept = (norms[0] > 1e-6 * norms[0].max()) & (norms[1] > 1e-6 * norms[1].max())
        yield reads[kept] / norms[0][kept, None], writes[kept] / norms[1][kept, None]


def _with_positions(values: Tensor) -> Tensor:
    """[n, *P, F] -> [n, positions, F], one position where there are none."""
    return values.flatten(1, -2) if values.ndim > 2 else values[:, None]


def _sparse_form(usage: _Usage, index: int, reads: Tensor, writes: Tensor) -> SparseForm:
    """The sum of atoms found in one pool."""
    weight = usage.model.weight(index)
    writes = writes * ((reads @ weight) * writes).sum(1).sign()[:, None]  # so that each atom points along W
    amounts = _amounts(weight, reads, writes, _price(usage.attributions(index, reads.t(), writes)))
    kept = amounts > 0.02 * amounts.max()
    V, U = _joined(reads[kept].t(), writes[kept] * amounts[kept, None], usage, index)
    rest = weight - V @ U
    if rest.norm() > REST * weight.norm():
        left, right = _singular(rest, NEGLIGIBLE)
        V, U = torch.cat([V, left], 1), torch.cat([U, right])
    return usage.form(index, V, U, sparse=True)


def _price(attributions: Tensor) -> Tensor:
    """How widely an atom is of use, [n] in [0, 1]: mean root of its attribution relative to its largest."""
    return (attributions / attributions.amax(0).clamp(min=1e-12)).sqrt().mean(0)


def _amounts(weight: Tensor, reads: Tensor, writes: Tensor, price: Tensor) -> Tensor:
    """a >= 0 minimising |W - sum_k a_k r_k w_k^T|^2 + PRICE (sum_k price_k a_k)^2, through the Gram matrix: [n].

    Atoms are factors, so that nothing of size [n, I, O] is built.
    """
    r, w, W = reads.double(), writes.double(), weight.double()
    gram = (r @ r.t()) * (w @ w.t()) + PRICE * torch.outer(price.double(), price.double())
    towards = ((r @ W) * w).sum(1)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-10 * values[-1]  # rounding noise of the Gram matrix lies below
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    matrix, wanted = roots[:, None] * vectors.t(), (vectors.t() @ towards) / roots
    amounts, _ = nnls(matrix.numpy(), wanted.numpy(), maxiter=100 * len(r))
    return torch.from_numpy(amounts).to(weight.dtype)


def _joined(V: Tensor, U: Tensor, usage: _Usage, index: int) -> tuple[Tensor, Tensor]:
    """Atoms of use on the same inputs, replaced by the singular vectors of their sum; largest first."""
    used = usage.used(index, V, U).double()
    both, each = used.t() @ used, used.sum(0)
    jaccard = both / (each[:, None] + each[None] - both).clamp(min=1)
    factors = [_singular(V[:, group] @ U[group], NEGLIGIBLE) for group in _connected(jaccard > JOINED)]
    V, U = torch.cat([v for v, _ in factors], 1), torch.cat([u for _, u in factors])
    order = (V.norm(dim=0) * U.norm(dim=1)).argsort(descending=True)
    return V[:, order], U[order]


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
