"""A step of decomposition here and in the methods' reference implementations, in one process, in turns.

    git clone https://github.com/ApolloResearch/apd && git clone https://github.com/goodfire-ai/spd
    python benchmarks/decompose.py --reference apd         # or benchmarks/decompose_reference.py apd
    python benchmarks/decompose.py --reference spd         # needs Python 3.12, as the reference does
    python benchmarks/decompose_reference.py               # the table from what was run before

Each needs the reference's own dependencies (pip install einops jaxtyping fire wandb transformers datasets) beside
madpipe. The reference's own training loop runs as it is, at the published settings of its experiment files, without
evaluation, plots and logging; its loader reads the clock. Blocks of steps alternate; figures are medians of blocks, in
milliseconds of processor time of one thread, which a busy machine disturbs less than time on the wall. Peaks are of
resident memory above that after imports, each in a process of its own. One line of JSON a cell goes to --results.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from references.memory import with_peak

RESULTS = Path(__file__).parent / "results" / "reference.jsonl"
BLOCKS = 5
STEPS = {"apd 40-10 x3": 2, "apd resid_mlp1": 2, "spd 40-10": 4, "spd 40-10-id": 3, "spd resid_mlp1": 4}  # of a block
WARM = 5  # our steps before the first block
PEAK_STEPS = 3


def reference_method(reference: Path) -> str:
    """Which of the two references a clone is; both packages are called spd."""
    return "apd" if (reference / "spd" / "hooks.py").exists() else "spd"


def cells(method: str) -> list[str]:
    if method == "apd":
        from references.apd import CELLS

        return list(CELLS)
    from references.spd import CONFIGS

    return list(CONFIGS)


def sides(method: str, cell: str, reference: Path) -> dict[str, Any]:
    """Side -> a function that takes n steps and gives the seconds of each.

    SPD's published configs run under autocast to bfloat16, so that both sides run with and without it.
    """
    if method == "apd":
        from references.apd import Comparison

        comparison = Comparison(cell, reference)
        return {"reference": comparison.reference_steps, "ours": comparison.ours.run, "terms": comparison.terms}
    from references.spd import Comparison as SPDComparison

    plain, mixed = (SPDComparison(cell, reference, autocast) for autocast in (False, True))
    return {
        "reference": plain.reference_steps,
        "reference bfloat16": mixed.reference_steps,
        "ours": plain.ours.run,
        "ours bfloat16": partial(plain.ours.run, dtype=torch.bfloat16),
        "terms": plain.terms,
    }


def run_cell(method: str, cell: str, reference: Path) -> dict:
    run = sides(method, cell, reference)
    terms = run.pop("terms")()
    steps = STEPS.get(f"{method} {cell}", 10)
    run["ours"](WARM)
    blocks: dict[str, list[float]] = {side: [] for side in run}
    for _ in range(BLOCKS):
        for side, take in run.items():
            blocks[side].append(1000 * statistics.median(take(steps)))
    peaks = {side: peak(method, cell, reference, side) for side in ("reference", "ours")}
    return {
        "cell": f"{method} {cell}",
        "steps": steps,
        "ms": blocks,
        "peak_mib": peaks,
        "terms": terms,
        "torch": torch.__version__,
    }


def peak(method: str, cell: str, reference: Path, side: str) -> float:
    command = [sys.executable, __file__, str(reference), "--only", cell, "--peak", side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(method: str, cell: str, reference: Path, side: str) -> None:
    """MiB of resident memory that a few steps of one side need at most, above what the imports left."""
    run = sides(method, cell, reference)
    print(with_peak(lambda: run[side](PEAK_STEPS))[1])


def report(rows: list[dict]) -> None:
    print("| step of | reference, ms | ours, ms | times faster (range of blocks) | peak, MiB: reference | ours |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        for suffix in ("", " bfloat16"):
            if f"ours{suffix}" in row["ms"]:
                print(_line(row, suffix))
    print("\n| terms at the same parameters and batch | reference | ours, in its units |")
    print("|---|---|---|")
    for row in rows:
        for name, (theirs, ours) in row["terms"].items():
            print(f"| {row['cell']}: {name} | {theirs:.6g} | {ours:.6g} |")


def _line(row: dict, suffix: str) -> str:
    theirs, ours = row["ms"][f"reference{suffix}"], row["ms"][f"ours{suffix}"]
    ratios = [reference / own for reference, own in zip(theirs, ours, strict=True)]
    peaks = [f"{row['peak_mib'][side]:.0f}" if not suffix else "" for side in ("reference", "ours")]
    return (
        f"| {row['cell']}{suffix} | {statistics.median(theirs):.0f} | {statistics.median(ours):.1f} "
        f"| {statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}) | {peaks[0]} | {peaks[1]} |"
    )


def latest(path: Path) -> list[dict]:
    """The last line of each cell."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({row["cell"]: row for row in rows}.values())


def compare(reference: Path, only: str | None, results: Path) -> None:
    """Run the cells of one reference and append them to `results`."""
    method = reference_method(reference)
    for cell in cells(method):
        if only is None or only == cell:
            row = run_cell(method, cell, reference)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, nargs="?", help="clone of ApolloResearch/apd or goodfire-ai/spd")
    parser.add_argument("--only", help="one cell")
    parser.add_argument("--peak", choices=("reference", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    if args.reference:
        prepare(args.reference)
    if args.peak:
        print_peak(reference_method(args.reference), args.only, args.reference, args.peak)
        return
    if args.reference:
        compare(args.reference, args.only, args.results)
    report(latest(args.results))


def prepare(reference: Path) -> None:
    """The clone importable as `spd`, before anything else of that name."""
    sys.path.insert(0, str(reference.resolve()))


if __name__ == "__main__":
    main()
