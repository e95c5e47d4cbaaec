"""A weight as a sum of rank-one atoms V[:, k] U[k, :]: their amounts, groups of them, and their sums split again.

Legend: n atoms, I = d_in, O = d_out.
"""

import torch
from scipy.optimize import nnls
from torch import Tensor

NEGLIGIBLE = 0.1  # of the largest singular value of joined atoms, and of the largest response atom


def amounts_of(weight: Tensor, reads: Tensor, writes: Tensor, price: Tensor) -> Tensor:
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


def closed(V: Tensor, U: Tensor, weight: Tensor, sweeps: int = 2) -> tuple[Tensor, Tensor]:
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


def resolved(V: Tensor, U: Tensor, groups: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Each group of atoms as the singular vectors of its sum; largest first."""
    factors = [singular_factors(V[:, group] @ U[group], NEGLIGIBLE) for group in groups]
    V, U = torch.cat([v for v, _ in factors], 1), torch.cat([u for _, u in factors])
    order = (V.norm(dim=0) * U.norm(dim=1)).argsort(descending=True)
    return V[:, order], U[order]


def led_groups(near: Tensor, sizes: Tensor) -> list[list[int]]:
    """Groups of a symmetric bool matrix [n, n]: the largest that is left, with all that are left and near to it."""
    left, groups = torch.ones(len(sizes), dtype=torch.bool), []
    for leader in sizes.argsort(descending=True).tolist():
        if left[leader]:
            group = near[leader] & left
            group[leader] = True
            left &= ~group
            groups.append(group.nonzero().flatten().tolist())
    return groups


def connected_groups(linked: Tensor) -> list[list[int]]:
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


def singular_factors(matrix: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """V [I, r], U [r, O] with V U = `matrix` up to singular values below `least` of the largest."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = values > least * values[0].clamp(min=1e-30)
    roots = values[kept].sqrt()
    return (left[:, kept] * roots).to(matrix.dtype), (roots[:, None] * right[kept]).to(matrix.dtype)
