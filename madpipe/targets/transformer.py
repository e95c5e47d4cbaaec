"""Built-in target: a small causal transformer that gives the next token's logits after a sequence of fixed length."""

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Causal attention with `heads` heads of width / heads dimensions each; [B, T, width] to [B, T, width]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def forward(self, residual: Tensor) -> Tensor:
        q, k, v = (self.split(site(residual)) for site in (self.q, self.k, self.v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        read = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        written: Tensor = self.o(read.transpose(1, 2).flatten(2))
        return written

    def split(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, heads, T, width / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """r <- r + attention(r); then, where there are neurons, r <- r + down(ReLU(up(r)))."""

    def __init__(self, width: int, heads: int, neurons: int):
        super().__init__()
        self.attention = Attention(width, heads)
        if neurons:
            self.up = nn.Linear(width, neurons)
            self.down = nn.Linear(neurons, width)
        self.neurons = neurons

    def forward(self, residual: Tensor) -> Tensor:
        residual = residual + self.attention(residual)
        return residual + self.down(torch.relu(self.up(residual))) if self.neurons else residual


class Transformer(nn.Module):
    """Token ids [B, length], of any number type, to logits [B, vocabulary] of the token that comes next.

    No normalisation, so that every weight but `position` [length, width] is that of an Embedding or a Linear layer.
    """

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, neurons: int, layers: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(Block(width, heads, neurons) for _ in range(layers))
        self.unembed = nn.Linear(width, vocabulary, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Embeddings and positions alike: of length about one, whatever the width."""
        for weight in (self.embed.weight, self.position):
            nn.init.normal_(weight, std=self.position.shape[1] ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        residual = self.embed(tokens.long()) + self.position
        for block in self.blocks:
            residual = block(residual)
        logits: Tensor = self.unembed(residual[:, -1])
        return logits


def build(vocabulary: int, length: int, width: int, heads: int = 4, neurons: int = 0, layers: int = 1) -> Transformer:
    """neurons: of each layer's MLP, none for attention alone.

    >>> [name for name, _ in build(10, 3, 8, heads=2).named_parameters()][:3]
    ['position', 'embed.weight', 'blocks.0.attention.q.weight']
    """
    if min(vocabulary, length, width, heads, layers) < 1 or neurons < 0:
        raise ValueError(f"every size must be at least 1 and neurons at least 0, got {vocabulary}, {length}, {width}")
    if width % heads:
        raise ValueError(f"width {width} cannot be shared by {heads} heads")
    return Transformer(vocabulary, length, width, heads, neurons, layers)
