"""Control: a fresh network distilled on trusted data; how far does the target disagree with it?"""

from torch import nn

from madpipe.patterns.copies import reinitialised
from madpipe.patterns.trusted_copy import CopyConfig, TrustedCopy


class StudentConfig(CopyConfig):
    weight_decay: float = 1e-2


class Student(TrustedCopy):
    """Starts from fresh weights: a network that has only ever seen trusted data."""

    Config = StudentConfig
    name = "student"

    def start(self, target: nn.Module) -> nn.Module:
        return reinitialised(target, self.seed)
