"""What all figures share: colours, sizes, labelled axes, lines told apart, names drawn as they stand."""

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart under every common colour blindness. Black is kept for what matters most.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#8A8A00")
LABEL_SIZE, TICK_SIZE, LEGEND_SIZE = 12, 10.5, 9.5


def label_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=LABEL_SIZE)
    axes.set_ylabel(y, fontsize=LABEL_SIZE)
    axes.tick_params(labelsize=TICK_SIZE)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def line_styles() -> Iterator[dict[str, Any]]:
    """Colours first, then the same colours with other dashes."""
    for dashes in cycle(("-", "--", "-.", ":")):
        for colour in PALETTE:
            yield {"color": colour, "linestyle": dashes}


def plain(text: str) -> str:
    """`text` as it stands: two dollar signs would be read as a formula."""
    return text.replace("$", r"\$")


def finish(figure: Figure, axes: Axes, title: str) -> Figure:
    """A legend where something is named, and the title."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=LEGEND_SIZE)
    if title:
        axes.set_title(plain(title), fontsize=LABEL_SIZE + 1)
    return figure
