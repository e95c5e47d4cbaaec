"""What controls question: a target and the trusted rows of a pipeline of the same config, without its decomposition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from madpipe.decomposition.method import Method, MethodConfig
from madpipe.pipeline.fitting import make_splits, rows_of, usable_precision
from madpipe.pipeline.rehearsal import ROWS, untrained
from madpipe.pipeline.source import Source
from madpipe.pipeline.trusted_rows import TrustedRows


@dataclass(frozen=True)
class ControlSubject:
    """As much of a `Pipeline` as controls read; `method` is untrained, since they look at clean passes alone."""

    method: Method
    batch_size: int
    facts: Mapping[str, Any]


def control_subject(
    source: Source, method_class: type[Method], method_config: MethodConfig, config: Mapping[str, Any]
) -> tuple[ControlSubject, TrustedRows]:
    """(subject, rows) by which controls score as they would beside a pipeline; `config` is the resolved config."""
    split = make_splits(len(source.trusted), config["calibration"], config["seed"])[0]
    start = rows_of(source, split.fit)[:ROWS]
    method = untrained(source, method_class, method_config)(start)
    precision = usable_precision(source.target.module, start[:2], config["scoring"]["precision"])
    method = method.to(torch.float64 if precision == "float64" else torch.float32)
    rows = TrustedRows(*(source.trusted[part] for part in (split.fit, split.validation, split.calibration)))
    return ControlSubject(method, config["scoring"]["batch_size"], {"seed": config["seed"]}), rows
