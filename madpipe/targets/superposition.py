"""Built-in target: a toy model of superposition, more sparse features than hidden dimensions."""

from collections import OrderedDict

from torch import nn


def build(features: int, hidden: int, identity: bool = False) -> nn.Sequential:
    """ReLU(linear2(hidden(linear1(x)))), inputs and outputs [B, features].

    linear1 [features -> hidden] has no bias, linear2 [hidden -> features] has one. identity: a layer `hidden` stands
    between them whose weight is the identity matrix.

    >>> [name for name, _ in build(5, 2, identity=True).named_children()]
    ['linear1', 'hidden', 'linear2', 'relu']
    """
    if features < 1 or hidden < 1:
        raise ValueError(f"needs features and hidden dimensions, got {features} and {hidden}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(linear1=nn.Linear(features, hidden, bias=False))
    if identity:
        between = nn.Linear(hidden, hidden, bias=False)
        nn.init.eye_(between.weight)
        layers["hidden"] = between
    layers["linear2"] = nn.Linear(hidden, features)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)
