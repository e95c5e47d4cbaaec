"""Explanations as files, and as the arrays that figures draw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.components.checkpoint import save_json
from madpipe.editing.explanation import Explanation
from madpipe.errors import ShapeError
from madpipe.pipeline.folder import FolderKind, publish, staging

EXPLANATIONS = FolderKind(
    noun="explanation", manifest="explanations.json", closed=(), optional="", command="explain", format=1
)


def image_shape(input_shape: tuple[int, ...], image: tuple[int, int] | None) -> tuple[int, ...] | None:
    """The shape in which an input is drawn as a picture: (channels,) height, width; None where it is none."""
    if image is not None:
        if int(np.prod(image)) != int(np.prod(input_shape)):
            raise ShapeError(
                f"--image {image[0]}x{image[1]}: inputs have shape {input_shape}, another number of values."
            )
        return image
    return input_shape if len(input_shape) == 3 and input_shape[0] in (1, 3) else None


def write_explanations(output: Path, explanations: Sequence[Explanation], image: tuple[int, ...] | None) -> None:
    """explanations.json and input-<id>.png each, in a new folder."""
    from madpipe.reporting.explanation_figures import explanation_figure
    from madpipe.reporting.figures import save_figure

    output = output.absolute()
    with staging(output) as staged:
        document = {"explanations": [one.to_json() for one in explanations]}
        save_json(document, staged / EXPLANATIONS.manifest)
        for one in explanations:
            save_figure(explanation_figure(**figure_arrays(one, image)), staged / f"input-{one.input_id}.png")
        publish(staged, output)


def figure_arrays(one: Explanation, image: tuple[int, ...] | None) -> dict[str, Any]:
    """What `explanation_figure` draws of an explanation."""
    return {
        "x": one.x,
        "read": one.read,
        "read_in_bits": one.read_in_bits,
        "outputs": {"network": one.clean, "trusted parts alone": one.explained, "named parts removed": one.ablated},
        "spread": one.spread,
        "part_bits": {part.name: part.surprise_bits for part in one.parts if part.surprise_bits is not None},
        "named": one.named,
        "image": image,
        "direction": next(((name, reads) for name, reads in _read_directions(one) if reads.size == one.x.size), None),
        "gallery": gallery(one),
        "title": f"input {one.input_id}: p = {one.p_value:.3g}, {one.surprise_bits:.1f} bits of surprise",
    }


def gallery(one: Explanation) -> list[tuple[str, NDArray[np.float64]]]:
    """Trusted inputs beside this one: those nearest by pattern, and those that drive the first named part most."""
    nearest = [(f"near: row {other.row}", other.x) for other in one.nearest or ()]
    named = next((part for part in one.parts if part.name in one.named), None)
    driving = [] if named is None else [(f"drives {named.name}: row {other.row}", other.x) for other in named.active_on]
    return [*nearest, *driving]


def _read_directions(one: Explanation) -> list[tuple[str, NDArray[np.float64]]]:
    return [(part.name, part.reads) for part in one.parts if part.name in one.named and part.reads is not None]
