"""Built-in target: a small convolutional ReLU network on images."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def build(image: Sequence[int], channels: Sequence[int], hidden: int, outputs: int) -> nn.Sequential:
    """3x3 convolutions `conv1, conv2, ...` (padding 1), one 2x2 max-pool, then `fc1` and `head`.

    image: (channels, height, width) of one input, height and width even. Inputs [B, *image], outputs (logits)
    [B, outputs].

    >>> [name for name, _ in build([1, 8, 8], [16, 32], 64, 10).named_children()][-4:]
    ['flatten', 'fc1', 'relu3', 'head']
    """
    depth, height, width = image
    if not channels or height % 2 or width % 2:
        raise ValueError(
            f"needs channels and an even height and width, got channels {list(channels)}, image {list(image)}"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (fan_in, fan_out) in enumerate(zip([depth, *channels[:-1]], channels, strict=True), start=1):
        layers[f"conv{number}"] = nn.Conv2d(fan_in, fan_out, kernel_size=3, padding=1)
        layers[f"relu{number}"] = nn.ReLU()
    layers["pool"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels[-1] * (height // 2) * (width // 2), hidden)
    layers[f"relu{len(channels) + 1}"] = nn.ReLU()
    layers["head"] = nn.Linear(hidden, outputs)
    return nn.Sequential(layers)
