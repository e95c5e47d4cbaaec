"""What is measured on trusted fit rows before training: input spread, hidden variances, excited directions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from madpipe.components.model import ComponentModel
from madpipe.components.sites import Site
from madpipe.decomposition.initialisation import second_moment_span
from madpipe.decomposition.losses import OutputKind, OutputMetric
from madpipe.decomposition.method import TrustedStatistics

SAMPLE = 32_768  # rows shown to starts that read some
ROWS = 4096  # enough for second moments and variances; the first ones, rows being shuffled by the split


@torch.no_grad()
def trusted_statistics(target: nn.Module, sites: Sequence[Site], x: Tensor, kind: OutputKind) -> TrustedStatistics:
    """Statistics of `x` [N, ...] and of what `target` does on it. Hidden means: a site's input that is not x itself."""
    sample, x = x[:SAMPLE], x[:ROWS]
    plain = ComponentModel(target, sites, [1] * len(sites))
    clean = plain.clean_forward(x)
    spans, variances = {}, {}
    for i, site in enumerate(plain.sites):
        captured = clean.site_inputs[site.name][0]
        spans[site.name] = second_moment_span(_rows(plain, i, captured))
        if not _is_input(captured, x):
            variances[site.name] = max(float(captured.var(0).mean()), 1e-12)
    variance = max(float(clean.output.flatten(0, 1).var(0).mean()), 1e-12)
    varies = x.shape[0] > 1 and not takes_token_ids(target)  # a token has no neighbours: noise would name another
    std = x.std(0) if varies else torch.zeros_like(x[0])
    return TrustedStatistics(
        input_std=std,
        hidden_variances=variances,
        spans=spans,
        metric=OutputMetric(kind, variance),
        sample=sample,
    )


def takes_token_ids(target: nn.Module) -> bool:
    """Whether the target looks anything up by its number, so that its inputs can hold no noise and no blend."""
    return any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in target.modules())


def _rows(model: ComponentModel, index: int, captured: Tensor) -> Tensor:
    """The vectors a site's weight is applied to, one per input and position: [N, I]."""
    identity = torch.eye(model.sites[index].d_in, dtype=captured.dtype)[None]
    rows = model.operation(index).inner(captured[:512] if captured.ndim > 2 else captured, identity)
    return rows.reshape(-1, rows.shape[-1])


def _is_input(captured: Tensor, x: Tensor) -> bool:
    return captured.numel() == x.numel() and bool(torch.equal(captured.reshape(-1), x.reshape(-1)))
