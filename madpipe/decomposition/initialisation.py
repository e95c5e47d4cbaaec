"""Where slots start: near zero or at the weights, on directions that trusted inputs excite, or at given atoms."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from madpipe.components.model import ComponentModel
from madpipe.decomposition.atom_usage import SparseForm

TOGETHER = 0.2  # Jaccard index of two atoms' uses at different sites above which they may be of one component
SPARE = 0.05  # |V_k| and |U_k| of slots that a sparse start leaves free, relative to the root of |W| / K
KEPT_MOMENT = 0.999  # share of the second moment of a site's trusted inputs that reading directions may lie in


def second_moment_span(inputs: Tensor, kept: float = KEPT_MOMENT) -> Tensor:
    """Orthonormal basis [I, k] of the smallest principal span holding `kept` of the second moment of rows [N, I]."""
    moment = inputs.t() @ inputs / inputs.shape[0]
    values, vectors = torch.linalg.eigh(moment.double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    shares = values.cumsum(0) / values.sum().clamp(min=1e-30)
    count = int((shares < kept).sum()) + 1
    return vectors[:, :count].to(inputs.dtype)


@torch.no_grad()
def start_near_zero(model: ComponentModel, index: int, span: Tensor, generator: torch.Generator) -> None:
    """V: random unit vectors in `span` [I, k]. U: N(0, 1) * 0.3 |W|_F / sqrt(O K) * sqrt(k / K): the sum is small."""
    V, U = model.V[index], model.U[index]
    S, _, K = V.shape
    k = span.shape[1]
    directions = span @ torch.randn(S, k, K, generator=generator)
    V.copy_(directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-12))
    norm = float(model.weight(index).norm())
    scale = 0.3 * norm / math.sqrt(U.shape[2] * K) * math.sqrt(k / K)
    U.copy_(torch.randn(U.shape, generator=generator) * scale)


@torch.no_grad()
def start_at_weights(model: ComponentModel, index: int, span: Tensor, generator: torch.Generator) -> None:
    """Sum of slots = W on the directions in `span` [I, k], zero on the others: exact on trusted inputs from the start.

    V: random unit vectors in the column space of the projected weight, U = V^+ W. Exact where its rank is at most K;
    with fewer slots the sum is the projection on what V spans.
    """
    V, U = model.V[index], model.U[index]
    S, _, K = V.shape
    projected = span @ (span.t() @ model.weight(index))
    left, values, _ = torch.linalg.svd(projected.double(), full_matrices=False)
    rank = max(int((values > 1e-6 * values[0]).sum()), 1)
    basis = left[:, :rank].to(V.dtype)
    directions = basis @ torch.randn(S, rank, K, generator=generator)
    V.copy_(directions / directions.norm(dim=1, keepdim=True))
    U.copy_((torch.linalg.pinv(V.double()) @ projected.double()).to(U.dtype))


@torch.no_grad()
def start_at_atoms(
    model: ComponentModel, index: int, instance: int, form: SparseForm, generator: torch.Generator
) -> None:
    """The atoms of `form`, largest first, as the first slots of one instance; the others small and random."""
    V, U = model.V[index][instance], model.U[index][instance]
    n = min(form.U.shape[0], U.shape[0])
    _start_small(V, U, float(model.weight(index).norm()), generator)
    V[:, :n], U[:n] = form.V[:, :n], form.U[:n]


def _start_small(V: Tensor, U: Tensor, norm: float, generator: torch.Generator) -> None:
    """V [I, K] and U [K, O] of random directions, every slot of norm SPARE^2 `norm` / K."""
    size = SPARE * (norm / U.shape[0]) ** 0.5
    V.copy_(torch.randn(V.shape, generator=generator))
    V.mul_(size / V.norm(dim=0))
    U.copy_(torch.randn(U.shape, generator=generator))
    U.mul_(size / U.norm(dim=1, keepdim=True))


Group = dict[str, list[int]]
"""Atoms that make up one component: site -> indices into its sparse form."""


def grouped_by_use(forms: Mapping[str, SparseForm], rank: int) -> list[Group]:
    """Atoms of all sites as components of at most `rank` atoms a site.

    The site of most atoms begins one component with each. An atom of another site joins the component that is of use on
    the most similar inputs, where these are similar at all and it has room, or begins one. A site without a sparse
    form is one mechanism: its singular vectors fill components of their own.
    """
    groups: list[Group] = []
    uses: list[Tensor] = []  # of each group's first atom, [N]
    sparse = sorted((name for name in forms if forms[name].sparse), key=lambda name: -forms[name].U.shape[0])
    for place, name in enumerate(sparse):
        used = forms[name].used
        similar = _jaccard(used, torch.stack(uses, 1)) if place else torch.zeros(used.shape[1], 1)
        index, nearest = similar.max(1)
        for atom in index.argsort(descending=True, stable=True).tolist():
            joined = groups[int(nearest[atom])].setdefault(name, []) if index[atom] > TOGETHER else None
            if joined is not None and len(joined) < rank:
                joined.append(atom)
            else:
                groups.append({name: [atom]})
                uses.append(used[:, atom])
    for name in (name for name in forms if not forms[name].sparse):
        atoms = list(range(forms[name].U.shape[0]))
        groups.extend({name: atoms[start : start + rank]} for start in range(0, len(atoms), rank))
    return groups


def _jaccard(first: Tensor, second: Tensor) -> Tensor:
    """Size of the intersection over that of the union, of columns of bool [N, n] and [N, m]: [n, m]."""
    both = first.double().t() @ second.double()
    return both / (first.sum(0)[:, None] + second.sum(0)[None] - both).clamp(min=1)


@torch.no_grad()
def start_at_groups(
    model: ComponentModel,
    index: int,
    instance: int,
    form: SparseForm,
    groups: Sequence[Sequence[int]],
    rank: int,
    generator: torch.Generator,
) -> None:
    """Component c begins with the atoms `groups[c]` of `form` in the first of its `rank` slots; the rest near zero."""
    V, U = model.V[index][instance], model.U[index][instance]
    _start_small(V, U, float(model.weight(index).norm()), generator)
    for c, atoms in enumerate(groups):
        slots = slice(c * rank, c * rank + len(atoms))
        V[:, slots], U[slots] = form.V[:, list(atoms)], form.U[list(atoms)]
