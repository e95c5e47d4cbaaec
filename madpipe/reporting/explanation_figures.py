"""One input explained in three panels: what was read of it, what comes out with and without, which parts it was."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike, NDArray

from madpipe.reporting.drawing import LABEL_SIZE, LEGEND_SIZE, PALETTE, TICK_SIZE, label_axes, plain

MOST_OUTPUTS, MOST_FEATURES = 12, 24  # bars beside each other that still have names
NAMED, OTHER = "#D55E00", "0.7"
FIRST_READ = 5  # features that are told apart

UNIT = 3.0  # inches, the height of a panel, and the width of an image with its title

Floats = NDArray[np.float64]
Panel = tuple[float, Callable[[Figure | SubFigure, Axes], None]]  # width in UNITs, and how it is drawn


def explanation_figure(
    x: ArrayLike,
    read: ArrayLike | None,
    outputs: Mapping[str, ArrayLike],
    part_bits: Mapping[str, float],
    *,
    read_in_bits: bool = True,
    spread: ArrayLike | None = None,
    named: Sequence[str] = (),
    image: Sequence[int] | None = None,
    direction: tuple[str, ArrayLike] | None = None,
    gallery: Sequence[tuple[str, ArrayLike]] = (),
    title: str = "",
) -> Figure:
    """x, read: the input and how far each feature was read, of one shape. outputs: name -> [*P, O]; `spread` is of the
    second. part_bits: part -> its share of the surprise. image: (channels,) height, width of images; only these show
    `direction`, a part and what it reads in an input of this shape, and the titled inputs of `gallery`.
    """
    panels = [
        *_input_panels(x, read, read_in_bits, image, direction),
        *_output_panels(outputs, spread, part_bits, named),
    ]
    rows = 2 if image is not None and gallery else 1
    as_image = image is not None and read is not None
    figure = Figure(figsize=(17 if as_image else 15, 4.6 + 2.2 * (rows - 1)), layout="constrained")
    upper, *lower = figure.subfigures(rows, 1, height_ratios=[4.6, 2.2][:rows], squeeze=False)[:, 0]
    grid = upper.subplots(1, len(panels), width_ratios=[width for width, _ in panels])
    if lower and image is not None:
        _draw_gallery(lower[0], gallery, image)
    for axes, (_, draw) in zip(grid, panels, strict=True):
        draw(upper, axes)
    if title:
        figure.suptitle(plain(title), fontsize=LABEL_SIZE + 2)
    return figure


def explanation_panels(
    x: ArrayLike,
    read: ArrayLike | None,
    outputs: Mapping[str, ArrayLike],
    part_bits: Mapping[str, float],
    *,
    read_in_bits: bool = True,
    spread: ArrayLike | None = None,
    named: Sequence[str] = (),
    image: Sequence[int] | None = None,
    direction: tuple[str, ArrayLike] | None = None,
    gallery: Sequence[tuple[str, ArrayLike]] = (),
    title: str = "",
) -> list[Figure]:
    """What `explanation_figure` draws in one, a figure for each panel: a narrow screen has them below each other.

    `title` has no place here.
    """
    panels = [
        *_input_panels(x, read, read_in_bits, image, direction),
        *_output_panels(outputs, spread, part_bits, named),
    ]
    figures = []
    for width, draw in panels:
        figure = Figure(figsize=(UNIT * width, UNIT * 1.2), layout="constrained")
        draw(figure, figure.subplots())
        figures.append(figure)
    if image is not None and gallery:
        row = Figure(figsize=(1.3 * len(gallery), 1.8), layout="constrained")
        _draw_gallery(row, [(name.replace(": ", ":\n"), x) for name, x in gallery], image)  # narrower than in one
        figures.append(row)
    return figures


def _input_panels(
    x: ArrayLike,
    read: ArrayLike | None,
    read_in_bits: bool,
    image: Sequence[int] | None,
    direction: tuple[str, ArrayLike] | None,
) -> list[Panel]:
    """Pictures of the input, of what was read of it and of what a part reads; or its features as bars."""
    values = np.asarray(x, dtype=np.float64)
    seen = None if read is None else np.asarray(read, dtype=np.float64)
    what = "bits of surprise" if read_in_bits else "share in the effect"
    if image is None or seen is None:
        return [(1.8, lambda figure, axes: _draw_features(axes, values, seen, what))]
    shape, told = image, f"what the named parts read:\n{what}"
    panels: list[Panel] = [
        (1.0, lambda figure, axes: _draw_image(axes, values, shape, "the input")),
        (1.2, lambda figure, axes: _draw_read_image(figure, axes, seen, shape, told)),
    ]
    if direction is not None:
        reads = np.asarray(direction[1], dtype=np.float64)
        title = f"what {plain(direction[0])}\nreads in any input"
        panels.append((1.2, lambda figure, axes: _draw_read_image(figure, axes, reads, shape, title)))
    return panels


def _output_panels(
    outputs: Mapping[str, ArrayLike], spread: ArrayLike | None, part_bits: Mapping[str, float], named: Sequence[str]
) -> list[Panel]:
    return [
        (1.8, lambda figure, axes: _draw_outputs(axes, outputs, spread)),
        (1.3, lambda figure, axes: _draw_parts(axes, part_bits, named)),
    ]


def _as_picture(values: Floats, image: Sequence[int]) -> Floats:
    """[H, W] or [H, W, 3]; channels are averaged unless they are three."""
    shaped = values.reshape(tuple(image))
    if shaped.ndim == 3:
        return shaped.transpose(1, 2, 0) if shaped.shape[0] == 3 else shaped.mean(0)
    return shaped


def _draw_image(axes: Axes, values: Floats, image: Sequence[int], title: str) -> None:
    picture = _as_picture(values, image)
    low, high = float(picture.min()), float(picture.max())
    axes.imshow((picture - low) / (high - low) if high > low else 0 * picture, cmap="gray")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=LABEL_SIZE)


def _draw_gallery(figure: Figure | SubFigure, gallery: Sequence[tuple[str, ArrayLike]], image: Sequence[int]) -> None:
    for axes, (title, x) in zip(figure.subplots(1, len(gallery), squeeze=False)[0], gallery, strict=True):
        _draw_image(axes, np.asarray(x, dtype=np.float64), image, "")
        axes.set_title(plain(title), fontsize=0.8 * TICK_SIZE)


def _draw_read_image(figure: Figure | SubFigure, axes: Axes, read: Floats, image: Sequence[int], title: str) -> None:
    shaped = read.reshape(tuple(image))
    picture = shaped.sum(0) if shaped.ndim == 3 else shaped
    largest = float(np.abs(picture).max()) or 1.0
    drawn = axes.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=TICK_SIZE)
    figure.colorbar(drawn, ax=axes, shrink=0.7)


def _draw_features(axes: Axes, x: Floats, read: Floats | None, what: str) -> None:
    """The features that were read most, with their values; of few features all, in their order."""
    if read is None:
        axes.text(0.5, 0.5, "inputs are token numbers,\nwhich have no gradient", ha="center", va="center")
        axes.set_axis_off()
        return
    flat, weights = x.ravel(), read.ravel()
    most = np.argsort(-np.abs(weights), kind="stable")
    shown = np.sort(most[:MOST_FEATURES])
    colours = [NAMED if place in most[:FIRST_READ] else OTHER for place in shown]
    axes.bar(range(len(shown)), weights[shown], color=colours)
    axes.set_xticks(range(len(shown)), [f"{place}: {flat[place]:+.2g}" for place in shown], rotation=90)
    label_axes(axes, "feature, and its value here", what)
    axes.tick_params(axis="x", labelsize=0.8 * TICK_SIZE)


def _draw_outputs(axes: Axes, outputs: Mapping[str, ArrayLike], spread: ArrayLike | None) -> None:
    """Bars of every output; of many, those on which the columns differ most."""
    columns = {name: np.asarray(values, dtype=np.float64).ravel() for name, values in outputs.items()}
    stacked = np.stack(list(columns.values()))
    apart = np.argsort(-(stacked.max(0) - stacked.min(0)), kind="stable")
    shown = np.sort(apart[:MOST_OUTPUTS])
    width = 0.8 / len(columns)
    for place, (name, values) in enumerate(columns.items()):
        error = None if spread is None or place != 1 else np.asarray(spread, dtype=np.float64).ravel()[shown]
        at = np.arange(len(shown)) + (place - (len(columns) - 1) / 2) * width
        colour = ("black", PALETTE[1], PALETTE[2])[place % 3]
        axes.bar(at, values[shown], width, label=plain(name), color=colour, yerr=error, error_kw={"linewidth": 1})
    axes.set_xticks(range(len(shown)), [str(place) for place in shown])
    label_axes(axes, "output", "probability or value")
    axes.set_ylim(top=max(axes.get_ylim()[1], 1e-9) * 1.3)  # room for the legend
    axes.legend(fontsize=LEGEND_SIZE, loc="upper left")


def _draw_parts(axes: Axes, part_bits: Mapping[str, float], named: Sequence[str]) -> None:
    """Largest at the top; the named ones stand out."""
    order = sorted(part_bits, key=lambda name: part_bits[name])
    colours = [NAMED if name in named else OTHER for name in order]
    axes.barh(range(len(order)), [part_bits[name] for name in order], color=colours)
    axes.set_yticks(range(len(order)), [plain(name) for name in order])
    label_axes(axes, "bits of surprise (orange: named)", "")
