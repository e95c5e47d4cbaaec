"""Before the long work: what would otherwise be found only after training. Nothing is kept, nothing is drawn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from madpipe.data.splits import Split
from madpipe.decomposition.method import Method, MethodConfig
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.errors import FactoryError, MadpipeError
from madpipe.patterns.observation import Observer
from madpipe.pipeline.members import build_extractors, member_columns
from madpipe.pipeline.source import Source
from madpipe.pipeline.stored_target import load_written_target, write_target

ROWS = 128

Start = Callable[[Tensor], Method]
"""A method whose features are those of the decomposition to come, from some trusted rows [B, ...]."""


def rehearse(source: Source, split: Split, start: Start, settings: Mapping[str, Any]) -> None:
    """FactoryError or UnknownNameError now rather than after training; `settings` is the resolved config."""
    refuse_unrepeatable_target(source)
    x = torch.from_numpy(source.trusted[split.fit[:ROWS]])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        refuse_unmatched_features(x, start, settings)


def untrained(source: Source, method_class: type[Method], config: MethodConfig) -> Start:
    """One seed of a decomposition before its start, which may be long: it has the features of any other."""

    def start(x: Tensor) -> Method:
        method = method_class(source.target.module, source.sites, config, len(method_class.variants(config)))
        method.statistics = trusted_statistics(source.target.module, source.sites, x, source.target.output)
        return method

    return start


@torch.no_grad()
def refuse_unrepeatable_target(source: Source) -> None:
    """FactoryError unless what a folder will hold of the target builds it again, with the same outputs."""
    factory, x = source.target.factory, torch.from_numpy(source.trusted[:ROWS])
    with torch.random.fork_rng(devices=[]), TemporaryDirectory(prefix="madpipe-") as scratch:
        try:
            again = load_written_target(Path(scratch) / "target", write_target(Path(scratch) / "target", source.target))
        except MadpipeError as error:
            reason = str(error).replace(scratch, "")
            raise FactoryError(
                f"target.factory: {factory} cannot be built from its own file and weights alone, as scoring will: "
                f"{reason} Put what it needs into its file, or into an installed package."
            ) from error
        same = torch.allclose(source.target.module(x), again.module(x), rtol=1e-5, atol=1e-6)
    if not same:
        raise FactoryError(
            f"target.factory: {factory} gives other outputs when it is built again with the same weights; "
            "what it draws or counts must be a parameter or a registered buffer."
        )


def refuse_unmatched_features(x: Tensor, start: Start, settings: Mapping[str, Any]) -> None:
    """UnknownNameError where a member's glob matches no feature of its extractor.

    Extractors that only members of "*" read are left out, and those of components that training has yet to find.
    """
    members = settings["detectors"]["members"]
    named = {name: spec for name, spec in members.items() if tuple(spec["features"]) != ("*",)}
    if not named:
        return
    method = start(x)
    observation = Observer(method).observe(x)
    if not method.has_components:
        views = {name: options.get("view") for name, options in settings["patterns"].items()}
        named = {name: spec for name, spec in named.items() if views[spec["patterns"]] != "components"}
    needed = {spec["patterns"]: settings["patterns"][spec["patterns"]] for spec in named.values()}
    extractors = build_extractors(needed, method, seed=0)
    for extractor in extractors.values():
        extractor.fit([observation])
    patterns = {name: extractor.extract(observation) for name, extractor in extractors.items()}
    for name, spec in named.items():
        member_columns(name, spec["features"], patterns[spec["patterns"]])
