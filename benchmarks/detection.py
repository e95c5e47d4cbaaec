"""Detection on the built-in tasks: the default pipeline and every control, over seeds. Prints the tables of the README.

    python benchmarks/detection.py --suite boolean --seeds 0 1 2 3 4
    python benchmarks/detection.py --suite digits --seeds 0 1 2
    python benchmarks/detection.py --report            # tables from what was run before

One line of JSON per (task, seed) is appended to --results; cells that are there already are not run again.
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

RESULTS = Path(__file__).parent / "results" / "detection.jsonl"
BOOLEAN = ("conj", "parity", "shift", "obfuscated", "override")
ATTACKS = ("badnets", "blended", "sinusoid", "conj", "obfuscated_conj")
SUITES = {
    "boolean": [{"name": "boolean", "variant": v, "trusted": 4000} for v in BOOLEAN],
    "boolean-200": [{"name": "boolean", "variant": v, "trusted": 200} for v in BOOLEAN],
    "digits": [{"name": "digits", "attack": a, "net": net} for net in ("mlp", "cnn") for a in ATTACKS],
}


def cell_name(task: dict, seed: int, settings: list[str]) -> str:
    return "-".join(str(v) for v in task.values()) + f"-{seed}" + "".join(f"[{s}]" for s in settings)


def run_cell(task: dict, seed: int, settings: list[str]) -> dict:
    """Fit in this process, as `madpipe fit` does, on one thread; evaluate with controls on the task's test data."""
    import numpy as np

    from madpipe.config.loading import load_config
    from madpipe.tasks.build import build_task
    from madpipe.workflows.evaluate import evaluate
    from madpipe.workflows.fit import fit

    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        built = build_task({**task, "seed": seed})
        (folder / "config.yaml").write_text(
            json.dumps({"task": {**task, "seed": seed}, "tracking": {"enabled": False}})
        )
        config = load_config(folder / "config.yaml", [f"seed={seed}", *settings])
        started = time.perf_counter()
        fit(config, base=folder, output=folder / "pipeline", report=lambda line: None)
        seconds = time.perf_counter() - started
        np.savez(folder / "test.npz", x=built.test, is_anomalous=built.is_anomalous)
        test = {"label": "is_anomalous", "report": lambda line: None}
        result = evaluate(str(folder / "pipeline"), folder / "test.npz", controls=True, **test)
        subsets = {}
        for name, mask in normal_subsets(built).items():
            keep = mask | built.is_anomalous
            np.savez(folder / "subset.npz", x=built.test[keep], is_anomalous=built.is_anomalous[keep])
            figures = evaluate(str(folder / "pipeline"), folder / "subset.npz", **test)["default"]
            subsets[name] = figures | {"normal_rows": int(mask.sum())}
    return {
        "cell": cell_name(task, seed, settings),
        "task": "-".join(str(v) for v in task.values()),
        "seed": seed,
        "settings": settings,
        "fit_seconds": seconds,
        "subsets": subsets,
        "facts": built.facts,
        **result,
    }


def normal_subsets(task) -> dict:
    """Named subsets of the normal test inputs, and their complement where it matters (`shift`)."""
    subsets = {name: mask & ~task.is_anomalous for name, mask in task.subsets.items()}
    if "shifted" in task.subsets:
        subsets["unshifted"] = ~task.subsets["shifted"] & ~task.is_anomalous
    return {name: mask for name, mask in subsets.items() if mask.any()}


def read_results(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_missing(args: argparse.Namespace) -> None:
    done = {row["cell"] for row in read_results(args.results)}
    args.results.parent.mkdir(exist_ok=True)
    for task in SUITES[args.suite]:
        for seed in args.seeds:
            name = cell_name(task, seed, args.set)
            if name in done or (args.only and args.only not in name):
                continue
            row = run_cell(task, seed, args.set)
            with args.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            default = row["default"]
            print(
                f"{name}: {default['auroc']:.4f} / {default['tpr_at_1']:.3f}, fit {row['fit_seconds']:.0f} s",
                flush=True,
            )


def grouped(rows: list[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["task"] + "".join(f" {s}" for s in row["settings"]), []).append(row)
    return groups


def mean(cells: list[dict], kind: str, name: str | None = None) -> str:
    """AUROC / TPR at 1 %, means over seeds."""
    import numpy as np

    values = [cell[kind] if name is None else cell[kind][name] for cell in cells]
    return f"{np.mean([v['auroc'] for v in values]):.3f} / {np.mean([v['tpr_at_1'] for v in values]):.2f}"


def best(cells: list[dict], prefix: str) -> str:
    """The control whose name begins with `prefix` and whose mean AUROC is highest."""
    names = [name for name in cells[0]["controls"] if name.startswith(prefix)]
    chosen = max(names, key=lambda name: sum(cell["controls"][name]["auroc"] for cell in cells))
    return mean(cells, "controls", chosen)


def report_detection(rows: list[dict]) -> None:
    print("| task | seeds | madpipe | worst seed | recall p <= 1 % | trusted copy | student | activations | input |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, cells in grouped(rows).items():
        worst = min(cell["default"]["auroc"] for cell in cells)
        recall = sum(cell["default"]["recall_at_nominal_1"] for cell in cells) / len(cells)
        controls = " | ".join(best(cells, kind) for kind in ("trusted_copy", "student", "activations_", "input_"))
        print(f"| {name} | {len(cells)} | **{mean(cells, 'default')}** | {worst:.3f} | {recall:.2f} | {controls} |")


def report_false_positives(rows: list[dict]) -> None:
    """Realised rates pooled over seeds, their beta-binomial 95 % intervals, and Holm-adjusted two-sided p-values."""
    from madpipe.evaluation.validity import holm

    table, doubts = [], {}
    for name, cells in grouped(rows).items():
        subset = "unshifted" if "unshifted" in cells[0]["subsets"] else None
        for nominal in (1, 5):
            realised, low, high, p = pooled(cells, nominal, subset)
            label = f"{name} ({subset})" if subset else name
            doubts[f"{label} at {nominal} %"] = p
            table.append((label, nominal, realised, low, high))
    adjusted = holm(doubts)
    print("| task, normal test inputs | nominal | realised | 95 % interval | p (Holm) |\n|---|---|---|---|---|")
    for label, nominal, realised, low, high in table:
        p = adjusted[f"{label} at {nominal} %"]
        print(f"| {label} | {nominal} % | {100 * realised:.2f} % | {100 * low:.2f}-{100 * high:.2f} % | {p:.2f} |")
    for name, cells in grouped(rows).items():
        if "shifted" in cells[0]["subsets"]:
            rates = [f"{100 * pooled(cells, n, 'shifted')[0]:.2f} % at {n} %" for n in (1, 5)]
            print(f"\n{name}, shifted inputs (no longer exchangeable with trusted data): {', '.join(rates)}.")


def pooled(cells: list[dict], nominal: int, subset: str | None) -> tuple[float, float, float, float]:
    """(realised rate, interval, two-sided p-value) of the cells' false positives together."""
    from functools import reduce

    import numpy as np

    from madpipe.evaluation.validity import false_positive_law

    figures = [cell["subsets"][subset] if subset else cell["default"] for cell in cells]
    normal = [f["normal_rows"] if subset else c["rows"] - c["anomalous"] for f, c in zip(figures, cells, strict=True)]
    rates = [f[f"fpr_at_nominal_{nominal}"] for f in figures]
    count = sum(round(rate * n) for rate, n in zip(rates, normal, strict=True))
    laws = [false_positive_law(nominal / 100, c["calibration_size"], n) for c, n in zip(cells, normal, strict=True)]
    law = np.maximum(reduce(np.convolve, laws), 0)
    below = np.cumsum(law / law.sum())
    low, high = np.searchsorted(below, [0.025, 0.975])
    at_most, at_least = below[count], 1 - (below[count - 1] if count else 0.0)
    return count / sum(normal), low / sum(normal), high / sum(normal), float(min(1.0, 2 * min(at_most, at_least)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, default="boolean")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", help="run cells whose name holds this text")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in madpipe fit")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="print tables of what is in --results, run nothing")
    args = parser.parse_args()
    if not args.report:
        run_missing(args)
    rows = read_results(args.results)
    report_detection(rows)
    print()
    report_false_positives(rows)


if __name__ == "__main__":
    main()
