"""What a benchmark writes into its folder: table.md, results.json and report.html."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from madpipe import __version__
from madpipe.components.checkpoint import save_json
from madpipe.config.suite import Suite
from madpipe.evaluation.benchmark_summary import summarise
from madpipe.evaluation.benchmark_tables import Table, markdown, tables
from madpipe.reporting.benchmark_page import benchmark_page
from madpipe.workflows.benchmark_plan import Cell

FILES = ("table.md", "results.json", "report.html")


def write_report(
    suite: Suite, cells: Sequence[Cell], documents: Mapping[str, Any], output: Path
) -> tuple[Mapping[str, Any], Sequence[Table]]:
    """The summary of the pipelines' cells that are there; no file where there is none."""
    fitted = [
        documents[c.name]
        | ({"controls": documents[c.controls]["controls"]} if c.controls and c.controls in documents else {})
        for c in cells
        if c.pipeline is not None and c.name in documents
    ]
    if not fitted:
        return {}, []
    summary = summarise(fitted)
    shown = tables(summary)
    said = f"{len(documents)} of {len(cells)} cells, madpipe {__version__}."
    title = f"madpipe benchmark: {suite.name}"
    _write_whole(output / "table.md", markdown(title, shown).replace("\n\n", f"\n\n{said}\n\n", 1))
    _write_whole(output / "report.html", benchmark_page(title, said, summary, shown))
    whole = {"suite": suite.model_dump(mode="json"), "cells": sorted(documents), "madpipe": __version__}
    save_json(whole | {"summary": summary}, output / "results.json.partial")
    os.replace(output / "results.json.partial", output / "results.json")
    return summary, shown


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
