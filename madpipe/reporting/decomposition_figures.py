"""Figures of a decomposition's quality as functions of arrays, in the manner of figures.py.

Legend: C subcomponents of one site, F features, T steps.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from madpipe.reporting.drawing import LABEL_SIZE, LEGEND_SIZE, TICK_SIZE, finish, label_axes, line_styles, plain

ALIVE = 0.1  # causal importance above which a subcomponent is alive
SIGNED, UNSIGNED = "RdBu_r", "Blues"  # white is zero in both
FRAME = "#D55E00"
PANEL = 1.5  # inches, the width of one matrix
TALLEST, FLATTEST = 2.5, 0.4  # height over width of a panel; matrices beyond are stretched
MOST_PANELS_IN_A_ROW = 8
MOST_NUMBERED = 45  # subcomponents beside each other that each have a number
WIDE = 20.0  # ratio of largest to smallest from which a curve needs a logarithmic axis


def component_matrices_figure(
    matrices: Sequence[tuple[str, ArrayLike]],
    *,
    rows: str = "input",
    columns: str = "output",
    title: str = "",
) -> Figure:
    """Heat maps of (title, [I, O]) side by side, all on one colour scale with zero in its middle."""
    values = [np.asarray(matrix, dtype=np.float64) for _, matrix in matrices]
    assert all(value.ndim == 2 for value in values), [value.shape for value in values]
    largest = max((float(np.abs(value[np.isfinite(value)]).max(initial=0.0)) for value in values), default=0.0) or 1.0
    across = max(min(len(values), MOST_PANELS_IN_A_ROW), 1)
    down = max(ceil(len(values) / across), 1)
    ratios = [value.shape[0] / value.shape[1] for value in values] or [1.0]
    square = min(ratios) >= FLATTEST and max(ratios) <= TALLEST
    height = PANEL * min(max(*ratios, FLATTEST), TALLEST)
    size = (max(1.4 + across * (PANEL + 0.15), 4.0), 0.9 + down * (height + 0.35))
    figure = Figure(figsize=size, layout="compressed")  # closes the gaps that square cells would leave
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(values) :]:
        axes.set_axis_off()
    for axes, (name, _), value in zip(grid.flat, matrices, values, strict=False):
        image = _draw_matrix(axes, value, SIGNED, (-largest, largest), "equal" if square else "auto")
        axes.set_title(plain(name), fontsize=TICK_SIZE)
        axes.set(xticks=[], yticks=[])
    figure.supxlabel(columns, fontsize=LABEL_SIZE)
    figure.supylabel(rows, fontsize=LABEL_SIZE)
    if values:
        figure.colorbar(image, ax=grid, shrink=0.9 if down == 1 else 0.6, fraction=0.04, pad=0.02, label="weight")
    return _titled(figure, title)


def importance_matrix_figure(
    importances: Mapping[str, ArrayLike], *, threshold: float = ALIVE, title: str = ""
) -> Figure:
    """Causal importance of each site's subcomponents on inputs with one feature each; dead ones are left out.

    importances: site -> [F, C] in [0, 1], row i on the input whose one feature is i. Subcomponents stand in the order
    of the feature each matters most to, so that one mechanism a feature is a diagonal.
    """
    values = {site: np.asarray(value, dtype=np.float64) for site, value in importances.items()}
    shown = {site: _diagonal_order(value, threshold) for site, value in values.items()}
    widths = np.array([max(len(columns), 4) / max(len(values[site]), 1) for site, columns in shown.items()] or [1.0])
    inches = np.maximum(4.0 * widths, 1.6)  # square cells in panels four inches high, where all sites have room
    inches *= min(1.0, 15.0 / inches.sum())
    figure = Figure(figsize=(2.4 + inches.sum() + 0.6 * len(inches), 5.2), layout="constrained")
    grid = figure.subplots(1, len(inches), squeeze=False, width_ratios=inches.tolist())[0]
    for axes, (site, value) in zip(grid, values.items(), strict=False):
        image = _draw_matrix(axes, value[:, shown[site]], UNSIGNED, (0.0, 1.0), "auto")
        alive = int((value.max(axis=0, initial=0.0) > threshold).sum())
        axes.set_title(f"{plain(site)}\n{alive} of {value.shape[1]} alive", fontsize=LABEL_SIZE)
        _number_ticks(axes, shown[site])
        axes.set_xlabel("subcomponent", fontsize=LABEL_SIZE)
    grid[0].set_ylabel("the input's one feature", fontsize=LABEL_SIZE)
    if values:
        figure.colorbar(image, ax=grid, fraction=0.04, pad=0.02, label="causal importance")
    return _titled(figure, title)


def co_importance_figure(together: ArrayLike, names: Sequence[str], sizes: Sequence[int], *, title: str = "") -> Figure:
    """How often subcomponents are important together, those of a component beside each other and framed.

    together: [n, n] in [0, 1]; names: [n]; sizes: how many subcomponents each component has, in order.
    """
    values = np.asarray(together, dtype=np.float64)
    assert values.shape == (len(names), len(names)), (values.shape, len(names))
    assert sum(sizes) == len(names), (sizes, len(names))
    inches = min(max(0.19 * len(names), 3.5), 9.0)
    figure = Figure(figsize=(inches + 2.6, inches + 1.4), layout="constrained")
    axes = figure.subplots()
    if len(names):
        image = _draw_matrix(axes, values, UNSIGNED, (0.0, 1.0), "equal")
        figure.colorbar(image, ax=axes, shrink=0.8, fraction=0.05, pad=0.02, label="cosine of causal importances")
    ends = np.cumsum(sizes)
    for end, size in zip(ends, sizes, strict=True):
        frame = Rectangle((end - size - 0.5, end - size - 0.5), size, size, fill=False, edgecolor=FRAME, linewidth=1.4)
        axes.add_patch(frame)
    numbered = len(names) <= MOST_NUMBERED
    axes.set_xticks(range(len(names)) if numbered else [], list(names) if numbered else [], rotation=90)
    axes.set_yticks(range(len(names)) if numbered else [], list(names) if numbered else [])
    axes.tick_params(labelsize=0.75 * TICK_SIZE)
    told = f"{len(names)} alive subcomponents in {len(sizes)} components (framed)"
    axes.set_xlabel(told, fontsize=LABEL_SIZE)
    return _titled(figure, title)


def alive_spectrum_figure(
    largest: Mapping[str, ArrayLike],
    mean: Mapping[str, ArrayLike] | None = None,
    *,
    threshold: float = ALIVE,
    size: tuple[float, float] | None = None,
    title: str = "",
) -> Figure:
    """Causal importances on trusted data by falling size, one line per site: the largest and, if given, the mean.

    largest, mean: site -> [C] in [0, 1]. What is above `threshold` at its largest is alive; the legend counts it.
    size: inches.
    """
    figure = Figure(figsize=size or (8 if mean is None else 13, 5), layout="constrained")
    panels = figure.subplots(1, 1 if mean is None else 2, squeeze=False, sharex=True)[0]
    labels = {}
    for site, values in largest.items():
        importances = np.asarray(values, dtype=np.float64)
        labels[site] = f"{plain(site)}: {int((importances > threshold).sum())} of {len(importances)} alive"
    _draw_spectra(panels[0], {labels[site]: values for site, values in largest.items()})
    panels[0].axhline(threshold, color="black", linestyle=":", linewidth=1.2)
    panels[0].set_ylim(-0.02, 1.05)
    label_axes(panels[0], "subcomponent, by falling importance", "largest causal importance on trusted data")
    if mean is not None:
        _draw_spectra(panels[1], {plain(site): values for site, values in mean.items()}, logarithmic=True)
        label_axes(panels[1], "subcomponent, by falling importance", "mean causal importance (where above zero)")
        if mean:
            panels[1].legend(fontsize=LEGEND_SIZE)
    return _titled(finish(figure, panels[0], ""), title)


def training_figure(steps: ArrayLike, losses: Mapping[str, ArrayLike], *, title: str = "") -> Figure:
    """Losses over steps, on a logarithmic axis where every value is positive. steps: [T]; losses: name -> [T]."""
    figure, axes = _curves(steps, losses)
    values = [np.asarray(loss, dtype=np.float64) for loss in losses.values()]
    if values and all((loss[np.isfinite(loss)] > 0).all() for loss in values):
        axes.set_yscale("log")
    label_axes(axes, "step", "loss")
    return finish(figure, axes, title)


def l0_figure(steps: ArrayLike, l0: Mapping[str, ArrayLike], *, wanted: float | None = None, title: str = "") -> Figure:
    """Active subcomponents per input over training, on a logarithmic axis where they fall far. steps: [T]; l0: site or
    variant -> [T].

    wanted: the number that the known mechanisms need, where they are known.
    """
    figure, axes = _curves(steps, l0)
    if wanted is not None:
        axes.axhline(wanted, color="black", linestyle=":", linewidth=1.4, label=f"known mechanisms: {wanted:.3g}")
    counts = np.concatenate([np.ravel(np.asarray(curve, dtype=np.float64)) for curve in l0.values()] or [np.zeros(1)])
    if counts.min(initial=np.inf) > 0 and counts.max() > WIDE * counts.min():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    label_axes(axes, "step", "active subcomponents per input (L0)")
    return finish(figure, axes, title)


def reconstruction_figure(
    divergences: Mapping[str, Mapping[str, ArrayLike]],
    *,
    unit: str = "nats per input",
    repeats: str = "seeds",
    title: str = "",
) -> Figure:
    """Divergence from the target's output under each kind of mask, as bars on a logarithmic axis.

    divergences: variant -> mask -> one value or one per seed; a bar is their mean, dots are seeds, or other `repeats`.
    What is not above zero has no bar, only its number.
    """
    masks = list(dict.fromkeys(mask for by_mask in divergences.values() for mask in by_mask))
    thickness = 0.8 / max(len(divergences), 1)
    figure = Figure(figsize=(9, 1.4 + 0.32 * len(masks) * max(len(divergences), 1.4)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlim(_logarithmic_range(divergences))
    for v, ((variant, by_mask), style) in enumerate(zip(divergences.items(), line_styles(), strict=False)):
        name = plain(variant)
        for mask, values in by_mask.items():
            place = masks.index(mask) + (v - (len(divergences) - 1) / 2) * thickness
            _draw_bar(axes, place, thickness, np.atleast_1d(np.asarray(values, dtype=np.float64)), style["color"], name)
            name = ""  # in the legend once
    axes.set_yticks(range(len(masks)), [plain(mask) for mask in masks])
    axes.set_ylim(max(len(masks), 1) - 0.5, -0.5)  # the first on top
    several = any(np.size(values) > 1 for by_mask in divergences.values() for values in by_mask.values())
    seeds = f"\nbars: mean over {repeats}, dots: {repeats}" if several else ""
    label_axes(axes, f"divergence from the target's output ({unit}){seeds}", "")
    axes.grid(visible=False, axis="y")
    if len(divergences) > 1:
        axes.legend(fontsize=LEGEND_SIZE, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _titled(figure, title)


def _draw_matrix(
    axes: Axes, values: NDArray[np.float64], colours: str, limits: tuple[float, float], aspect: Literal["equal", "auto"]
) -> AxesImage:
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect=aspect, interpolation="nearest")
    axes.spines[:].set_color("0.7")
    return image


def _diagonal_order(importances: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Alive columns of [F, C], or all where none is, by the row of their largest value, the larger first."""
    largest = importances.max(axis=0, initial=0.0)
    order: NDArray[np.int64] = np.lexsort((-largest, importances.argmax(axis=0)))
    alive = order[largest[order] > threshold]
    return alive if len(alive) else order


def _number_ticks(axes: Axes, columns: NDArray[np.int64]) -> None:
    """Subcomponents by their own numbers where there is room, features by theirs."""
    if len(columns) <= MOST_NUMBERED:
        size = TICK_SIZE if len(columns) <= MOST_NUMBERED / 3 else 0.65 * TICK_SIZE
        axes.set_xticks(range(len(columns)), [str(k) for k in columns], rotation=90, fontsize=size)
    else:
        axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.tick_params(axis="y", labelsize=TICK_SIZE)


def _draw_spectra(axes: Axes, importances: Mapping[str, ArrayLike], *, logarithmic: bool = False) -> None:
    for (name, values), style in zip(importances.items(), line_styles(), strict=False):
        spectrum = np.sort(np.asarray(values, dtype=np.float64))[::-1]
        shown = np.where(spectrum > 0, spectrum, np.nan) if logarithmic else spectrum
        ranks = np.arange(1, len(spectrum) + 1)
        axes.plot(ranks, shown, marker="o", markersize=3, linewidth=1.4, label=name, **style)
    if logarithmic:
        axes.set_yscale("log")


def _curves(steps: ArrayLike, values: Mapping[str, ArrayLike]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for (name, curve), style in zip(values.items(), line_styles(), strict=False):
        axes.plot(np.asarray(steps), np.asarray(curve, dtype=np.float64), label=plain(name), linewidth=1.6, **style)
    return figure, axes


def _logarithmic_range(divergences: Mapping[str, Mapping[str, ArrayLike]]) -> tuple[float, float]:
    """From half a decade below the smallest positive value, with room for a number to the right of the largest."""
    values = np.concatenate(
        [np.ravel(np.asarray(v, dtype=np.float64)) for by_mask in divergences.values() for v in by_mask.values()]
        or [np.ones(1)]
    )
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    decades = np.log10(high / low) + 1
    return float(low / 10**0.5), float(high * 10 ** (0.15 * decades))


def _draw_bar(axes: Axes, place: float, thickness: float, values: NDArray[np.float64], colour: str, name: str) -> None:
    """A bar from the left edge to the mean of `values`, a dot for each where there are several, and the number."""
    left, mean = axes.get_xlim()[0], float(values.mean())
    length = max(mean - left, 0.0) if np.isfinite(mean) else 0.0
    axes.barh(place, length, thickness * 0.9, left=left, color=colour, alpha=0.75, label=name or None)
    end = max(left, mean) if np.isfinite(mean) else left
    dots = values[np.isfinite(values) & (values > left)] if len(values) > 1 else values[:0]
    axes.plot(dots, np.full(len(dots), place), "o", color="black", markersize=3, alpha=0.6)
    furthest = max([end, *dots.tolist()])
    axes.annotate(
        f"{mean:.2g}", (furthest, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=TICK_SIZE
    )


def _titled(figure: Figure, title: str) -> Figure:
    if title:
        figure.suptitle(plain(title), fontsize=LABEL_SIZE + 2)
    return figure
