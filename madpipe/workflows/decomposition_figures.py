"""Pictures of a decomposition, as PNG files: its best seed's components and importances, and how well seeds explain."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from madpipe.data.splits import Split
from madpipe.decomposition.assessment import Assessment
from madpipe.decomposition.inspection import (
    co_importance,
    component_matrices,
    importance_spectra,
    lone_feature_importances,
)
from madpipe.decomposition.method import Method
from madpipe.decomposition.selection import select_seed
from madpipe.pipeline.fitting import chunks_of
from madpipe.pipeline.source import Source

if TYPE_CHECKING:
    from madpipe.reporting.drawing import Figure

MOST_ENTRIES = 1000  # of a weight whose components are drawn as matrices
MOST_COMPONENTS = 22  # three rows of eight, with the weight and its delta
MOST_FEATURES = 200  # of a flat input whose features are tried alone
MASKS = {
    "reconstruction_unmasked": "every component",
    "reconstruction_alive": "alive components",
    "reconstruction_importance": "by this input's importances",
    "reconstruction_stochastic": "stochastic",
    "reconstruction_adversarial": "adversarial",
}


def draw_decomposition(
    folder: Path, method: Method, best: int, seeds: Sequence[Assessment], source: Source, split: Split
) -> None:
    """Write into `folder`, which is made. `method` has every seed, `seeds` the figures of each; `best` is pictured."""
    from madpipe.reporting.figures import save_figure

    folder.mkdir()
    figures = {"reconstruction": _reconstruction(seeds)}
    alone, variants = select_seed(method, best), method.variant_names
    for v, variant in enumerate(variants):
        told = [f"seed {best}"] * (len(seeds) > 1) + [f"variant {variant}"] * (len(variants) > 1)
        ending = f"-{variant}" if len(variants) > 1 else ""
        pictures = _of_variant(alone, v, ", ".join(told), source, split)
        figures |= {f"{name}{ending}": figure for name, figure in pictures}
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")


def _of_variant(best: Method, v: int, title: str, source: Source, split: Split) -> Iterator[tuple[str, "Figure"]]:
    """Spectra are taken on the rows that were trained on, where alive is defined."""
    from madpipe.reporting.decomposition_figures import (
        alive_spectrum_figure,
        co_importance_figure,
        component_matrices_figure,
        importance_matrix_figure,
    )

    spectra = importance_spectra(best, chunks_of(source, split.fit))
    largest, mean = ({site: pair[k][v] for site, pair in spectra.items()} for k in (0, 1))
    yield "alive_spectrum", alive_spectrum_figure(largest, mean, title=title)
    if best.clusters is not None:
        yield "co_importance", co_importance_figure(*co_importance(best, chunks_of(source, split.fit), v), title=title)
    shape = source.trusted.shape[1:]
    if len(shape) == 1 and shape[0] <= MOST_FEATURES:
        lone = {site: value[v] for site, value in lone_feature_importances(best, shape[0]).items()}
        yield "importances", importance_matrix_figure(lone, title=title)
    for index, site in enumerate(best.model.sites):
        if site.d_in * site.d_out <= MOST_ENTRIES:
            matrices, alive = component_matrices(best, index, v, MOST_COMPONENTS)
            told = ", ".join(filter(None, [site.name, title, f"{len(matrices) - 2} of {alive} alive components"]))
            yield f"components-{site.name.replace('/', '_')}", component_matrices_figure(matrices, title=told)


def _reconstruction(seeds: Sequence[Assessment]) -> "Figure":
    from madpipe.reporting.decomposition_figures import reconstruction_figure

    divergences: Mapping[str, Mapping[str, list[float]]] = {
        variant: {shown: [seed.figures[variant][figure] for seed in seeds] for figure, shown in MASKS.items()}
        for variant in seeds[0].figures
    }
    return reconstruction_figure(divergences, title="divergence of the explained output, trusted validation rows")
