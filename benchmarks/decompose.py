"""Are the known mechanisms of toy tasks recovered, by every seed, and in what time? Prints the table of the docs.

    python benchmarks/decompose.py                          # everything below: about 45 minutes on one core
    python benchmarks/decompose.py --only superposition-5-2 --start weights zero     # other starts, to compare
    python benchmarks/decompose.py --only 5-2-id --target 1                          # another target
    python benchmarks/decompose.py --report                 # the table from what was run before
    python benchmarks/decompose.py --reference CLONE        # step times beside a reference implementation's

Each cell is one `madpipe decompose` with the defaults of its task and method and nothing else but the number of seeds.
One line of JSON per cell is appended to --results; cells that are there already are not run again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from references.memory import with_peak

RESULTS = Path(__file__).parent / "results" / "decompose.jsonl"
SUPERPOSITION = [
    ({"name": "superposition", "features": features, "hidden": hidden, "identity": identity}, method, seeds[method])
    for method in ("spd", "apd", "vpd")
    for features, hidden, seeds in ((5, 2, {"spd": 20, "apd": 10, "vpd": 20}), (40, 10, {"spd": 5, "apd": 3, "vpd": 3}))
    for identity in ((False,) if method == "apd" else (False, True))
]
RESIDUAL = [
    ({"name": "compressed_computation"}, "spd", 3),
    ({"name": "cross_layer", "layers": 2}, "spd", 3),
    ({"name": "cross_layer", "layers": 3, "features": 102, "neurons": 17}, "spd", 1),
]
CELLS = SUPERPOSITION + RESIDUAL


def cell_name(task: dict, method: str, start: str | None) -> str:
    name = task["name"]
    if name == "superposition":
        name += f"-{task['features']}-{task['hidden']}{'-id' if task['identity'] else ''}"
    elif "layers" in task:
        name += f"-{task['layers']}"
    target = f" target {task['seed']}" if task["seed"] else ""
    begun = f" start={start}" if start else ""
    return f"{name}{target} {method}{begun}"


def run_cell(name: str, task: dict, method: str, seeds: int, start: str | None) -> dict:
    """Decompose in this process, as `madpipe decompose --json` does."""
    from madpipe.config.loading import load_config
    from madpipe.workflows.decompose import decompose

    decomposition = {"method": method, "seeds": seeds} | ({"start": start} if start else {})
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = {"task": task, "decomposition": decomposition, "tracking": {"enabled": False}}
        (folder / "config.yaml").write_text(json.dumps(config))
        loaded = load_config(folder / "config.yaml")
        output = folder / "decomposition"
        result, peak = with_peak(lambda: decompose(loaded, base=folder, output=output, report=lambda line: None))
    quality = [seed.document() for seed in result.seeds]
    return {"cell": name, "seeds": seeds, "seconds": result.seconds, "best": result.best, "quality": quality} | {
        "peak_mib": peak
    }


def is_broken(seed: dict) -> bool:
    return bool(seed["broken"])


def report(rows: list[dict]) -> None:
    print("| task, method | broken seeds | MMCS, mean (least) | ML2R, mean (range) | found, least | L0 | s a seed |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        seeds = row["quality"]
        mmcs, ml2r = ([seed[key] for seed in seeds] for key in ("mmcs", "ml2r"))
        least = min(seeds, key=lambda seed: seed["matched"])
        mean = [sum(seed[key] for seed in seeds) / len(seeds) for key in ("mmcs", "ml2r", "l0")]
        print(
            f"| {row['cell']} | {sum(map(is_broken, seeds))} of {len(seeds)} | {mean[0]:.4f} ({min(mmcs):.4f}) "
            f"| {mean[1]:.3f} ({min(ml2r):.3f}-{max(ml2r):.3f}) | {least['matched']:.0f} of {least['mechanisms']:.0f} "
            f"| {mean[2]:.1f} | {row['seconds'] / len(seeds):.0f} |"
        )
    report_sites(
        [row for row in rows if any("block_joined" in site for site in row["quality"][0].get("sites", {}).values())]
    )
    measured = [f"{row['cell']} {row['peak_mib']:.0f}" for row in rows if "peak_mib" in row]
    if measured:
        print(f"\nPeak resident memory above that before, of all seeds side by side, MiB: {', '.join(measured)}")


def report_sites(rows: list[dict]) -> None:
    """Where a site's weight is many mechanisms, or one of high rank: what is found of them, least and most of seeds."""
    if not rows:
        return
    print("\n| task, method | site | found | MMCS | by column | rank-one parts | block in one component, of rank |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        for site in row["quality"][0]["sites"]:
            cells = site_cells([seed["sites"][site] for seed in row["quality"]])
            print(f"| {row['cell']} | {site} | {' | '.join(cells)} |")
        if "features" in row["quality"][0]:
            found = least_and_most([seed["features_found"] for seed in row["quality"]], "{:.0f}")
            mean = least_and_most([seed["mmcs_features"] for seed in row["quality"]], "{:.4f}")
            print(f"| {row['cell']} | all, concatenated | {found} of {row['quality'][0]['features']} | {mean} | | | |")


def site_cells(seeds: list[dict]) -> list[str]:
    def cell(key: str, form: str) -> str:
        return least_and_most([seed[key] for seed in seeds], form) if key in seeds[0] else ""

    found = f"{cell('matched', '{:.0f}')} of {seeds[0]['mechanisms']}" if "matched" in seeds[0] else ""
    joined = f"{cell('block_joined', '{:.2f}')}, {cell('block_rank', '{:.0f}')}" if "block_joined" in seeds[0] else ""
    return [found, cell("mmcs", "{:.4f}"), cell("mmcs_column", "{:.4f}"), cell("block_parts", "{:.0f}"), joined]


def least_and_most(values: list[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}-{high}"


def read_results(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="cells whose name holds this")
    parser.add_argument("--start", nargs="+", default=[None], help="other starts than the default of the task")
    parser.add_argument("--target", type=int, default=0, help="the task's seed: another trained network")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--reference", type=Path, metavar="CLONE", help="compare step times instead")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.reference:
        script = Path(__file__).with_name("decompose_reference.py")
        raise SystemExit(subprocess.call([sys.executable, str(script), str(args.reference)]))
    torch.set_num_threads(1)
    args.results.parent.mkdir(exist_ok=True)
    done = {row["cell"] for row in read_results(args.results)}
    for listed, method, seeds in [] if args.report else CELLS:
        for start in args.start:
            task = listed | {"seed": args.target}
            name = cell_name(task, method, start)
            if name in done or (args.only and args.only not in name):
                continue
            row = run_cell(name, task, method, seeds, start)
            with args.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
    report([row for row in read_results(args.results) if not args.only or args.only in row["cell"]])


if __name__ == "__main__":
    main()
