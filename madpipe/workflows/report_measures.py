"""What a report tells of a pipeline folder: the quality of its decompositions, their components, its calibration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from madpipe.components.checkpoint import load_json
from madpipe.decomposition.inspection import component_matrices, importance_spectra, reading_directions
from madpipe.decomposition.method import Method
from madpipe.decomposition.quality import agreement
from madpipe.detectors.conformal import p_values
from madpipe.evaluation.calibration_check import CalibrationCheck
from madpipe.pipeline.fitting import CHUNK, as_rows
from madpipe.pipeline.numbered_rows import numbered_rows
from madpipe.pipeline.scorer import Pipeline
from madpipe.reporting.pipeline_page import AGREEMENT, MASKS
from madpipe.workflows.decomposition_figures import MOST_COMPONENTS, MOST_ENTRIES

if TYPE_CHECKING:
    from madpipe.reporting.drawing import Figure

MOST_DIRECTIONS = 16  # components whose reading directions are drawn as images
QUALITY_WIDTH = 7.0  # inches
ROWS = 4096  # trusted rows on which importances are looked at
LATER = "later half of the calibration rows"
Quality = dict[str, dict[str, list[float]]]


def kept_chunks(pipeline: Pipeline, folder: Path, part: str) -> Sequence[Any] | None:
    """At most ROWS trusted rows of a part that the folder keeps, in chunks; None where it keeps none."""
    found = numbered_rows(folder, (part,))
    if found is None or not len(found[0]):
        return None
    return as_rows(found[0][:ROWS]).to(pipeline.method.model.V[0]).split(CHUNK)


def quality_of(pipeline: Pipeline, folder: Path, untouched: Sequence[Any] | None) -> Quality:
    """figure -> variant -> a value for each fold, as `fit` measured them; agreement, on rows that nothing was fitted
    on, where there are any.
    """
    quality: Quality = {}
    for k, fold in enumerate(pipeline.ensemble.folds):
        stored = load_json(folder / "folds" / str(k) / "decomposition" / "decomposition.json")["quality"]
        method = fold.observer.method
        agreed = agreement(method, untouched) if untouched else {}
        for key, value in {**stored, **{f"{AGREEMENT}/{name}": share for name, share in agreed.items()}}.items():
            name, _, variant = key.partition("/")
            quality.setdefault(name, {}).setdefault(variant, []).append(float(value))
    return quality


def quality_figure(quality: Quality, unit: str) -> "Figure":
    from madpipe.reporting.decomposition_figures import reconstruction_figure

    variants = list(quality["reconstruction_alive"])
    divergences = {v: {told: quality[key][v] for key, told in MASKS.items() if key in quality} for v in variants}
    figure = reconstruction_figure(divergences, unit=unit, repeats="decompositions")
    figure.set_figwidth(QUALITY_WIDTH)
    return figure


def site_rows(pipeline: Pipeline) -> list[dict[str, object]]:
    """Of the first fold, a row for each site: its size, and how many of its subcomponents are alive in each variant."""
    method = pipeline.method
    return [
        {
            "site": site.name,
            "kind": site.kind,
            "inputs": site.d_in,
            "outputs": site.d_out,
            "subcomponents": method.model.slots[index],
            **{
                f"alive, view: {name}": int(method.alive(index)[v].sum()) for v, name in enumerate(method.variant_names)
            },
        }
        for index, site in enumerate(method.model.sites)
    ]


def spectrum_figures(method: Method, chunks: Sequence[Any]) -> "dict[str, Figure]":
    """Variant -> largest causal importances on trusted rows."""
    from madpipe.reporting.decomposition_figures import alive_spectrum_figure

    spectra = importance_spectra(method, chunks)
    return {
        name: alive_spectrum_figure({site: pair.largest[v] for site, pair in spectra.items()}, size=(5.8, 4.4))
        for v, name in enumerate(method.variant_names)
    }


def component_pictures(method: Method, image: tuple[int, ...] | None) -> "dict[str, Figure]":
    """Components of small sites as matrices; where inputs are images, what those of the first site read, as images."""
    from madpipe.reporting.decomposition_figures import component_matrices_figure

    pictures = {}
    last = len(method.variant_names) - 1  # the one that reproduces inner activations too, where there are two
    for index, site in enumerate(method.model.sites):
        if site.d_in * site.d_out <= MOST_ENTRIES:
            matrices, alive = component_matrices(method, index, last, MOST_COMPONENTS)
            told = f"Weight {site.name}, its weight delta, and {len(matrices) - 2} of {alive} alive components."
            pictures[told] = component_matrices_figure(matrices)
    first = method.model.sites[0]
    if image is not None and first.d_in == int(np.prod(image)):
        read = reading_directions(method, 0, last, MOST_DIRECTIONS)
        shown = [(name, reads.reshape(-1, *image[-2:]).sum(0)) for name, reads in read]
        told = f"What the {len(shown)} largest subcomponents of {first.name} read in an input, as images."
        pictures[told] = component_matrices_figure(shown, rows="", columns="")
    return pictures


def calibration_checks(pipeline: Pipeline, normal: Mapping[str, Any]) -> dict[str, CalibrationCheck]:
    """Calibration rows, which lie in the order of the user's file, ranked against each other: the later half among the
    earlier. And p-values of normal inputs, by name. Nothing for a pipeline that is cross-fitted.

    Ranks of all calibration rows among themselves would be uniform whatever the rows are, and tell nothing.
    """
    if pipeline.facts["crossed"]:
        return {}
    (scores,) = pipeline.ensemble.calibration.combined
    half = len(scores) // 2
    checks = {LATER: CalibrationCheck.of(p_values(scores[half:], scores[:half]), half)}
    return checks | {name: CalibrationCheck.of(p, pipeline.calibration_size) for name, p in normal.items()}
