"""Built-in target: a plain ReLU network on flat inputs."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def build(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers `fc1, fc2, ..., head` with ReLU between; inputs [B, sizes[0]], outputs (logits) [B, sizes[-1]].

    >>> [name for name, _ in build([64, 128, 10]).named_children()]
    ['fc1', 'relu1', 'head']
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes needs an input and an output width, got {list(sizes)}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (fan_in, fan_out) in enumerate(pairwise(sizes[:-1]), start=1):
        layers[f"fc{number}"] = nn.Linear(fan_in, fan_out)
        layers[f"relu{number}"] = nn.ReLU()
    layers["head"] = nn.Linear(sizes[-2], sizes[-1])
    return nn.Sequential(layers)
