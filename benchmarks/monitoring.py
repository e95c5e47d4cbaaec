"""The watch for drift (`madpipe score --monitor`): false alarms on clean streams, delay on contaminated ones.

    python benchmarks/monitoring.py                                      # exports and fits a Boolean task first
    python benchmarks/monitoring.py --pipeline DIR --test FILE.npz       # a pipeline of yours, with is_anomalous

Scores are real: the pipeline's own calibration scores, and those of the task's test inputs. For a clean stream those of
calibration rows and of normal test inputs are shuffled together; the first as many as there are calibration scores
are the calibration, the next 1,000 the stream, so that both are exchangeable by construction. A contaminated stream
follows the same calibration with a share of anomalous test inputs, at random places, from its first input or from input
501 on. Prints a table, and appends it to benchmarks/results/monitoring.jsonl.
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from madpipe.detectors.conformal import p_values, round_significant
from madpipe.detectors.martingale import SequentialRanks, log_bets, log_threshold, no_capital, wager

Floats = NDArray[np.float64]
LENGTH, LEVEL, AT_ONCE = 1000, 0.01, 50
TASK = "boolean-conj-4000-0"
RESULTS = Path(__file__).parent / "results" / "monitoring.jsonl"


def fitted(folder: Path) -> tuple[Path, Path]:
    """A pipeline of TASK and its labelled test inputs."""
    from madpipe.config.loading import load_config
    from madpipe.workflows.fit import fit
    from madpipe.workflows.tasks import export_task

    export_task(TASK, folder / "task", overwrite=False, report=lambda line: None)
    config = load_config(folder / "task" / "config.yaml", ["tracking.enabled=false"])
    fit(config, base=folder / "task", output=folder / "pipeline", report=lambda line: None)
    return folder / "pipeline", folder / "task" / "test.npz"


def score_sets(pipeline: Path, test: Path) -> tuple[Floats, Floats, Floats]:
    """(calibration, normal, anomalous) score_samples, higher = more normal."""
    from madpipe.data.inputs import check_rows, read_array, read_labels
    from madpipe.pipeline.scorer import Pipeline

    loaded = Pipeline.load(pipeline)
    x, labels = check_rows(read_array(test, "x"), loaded.input_shape, str(test)), read_labels(test)
    scores = -np.concatenate([loaded.score(x[i : i + 500]).anomaly_score for i in range(0, len(x), 500)])
    return loaded.ensemble.calibration.combined[0], scores[~labels], scores[labels]


def first_alarms(ranks: Floats) -> NDArray[np.int64]:
    """For each stream of ranks [n, T] the number of its input at which the alarm comes, 0 for none."""
    alarms = []
    for start in range(0, len(ranks), AT_ONCE):
        bets = log_bets(ranks[start : start + AT_ONCE])
        capital = np.broadcast_to(no_capital(), (len(bets), bets.shape[-1]))
        over = wager(capital, 0, bets)[0] >= log_threshold(LEVEL)
        alarms.append(np.where(over.any(1), over.argmax(1) + 1, 0))
    return np.concatenate(alarms)


def streams(
    calibration: Floats, normal: Floats, anomalous: Floats, share: float, onset: int, count: int, fixed: bool
) -> Floats:
    """Ranks [count, LENGTH] of simulated streams; `fixed` ranks among the calibration alone."""
    pool, n = round_significant(np.concatenate([calibration, normal])), len(calibration)
    ranks = np.empty((count, LENGTH))
    for i in range(count):
        random = np.random.default_rng(i)
        drawn = random.permutation(pool)[: n + LENGTH]
        strange = np.flatnonzero((random.random(LENGTH) < share) & (np.arange(LENGTH) >= onset))
        drawn[n + strange] = round_significant(random.choice(anomalous, len(strange), replace=False))
        held, stream = drawn[:n], drawn[n:]
        ranks[i] = p_values(stream, held) if fixed else SequentialRanks(held, i).update(stream)
    return ranks


def judged(name: str, ranks: Floats, onset: int) -> dict[str, object]:
    """The row of one kind of stream. Delays are counted from the first input that may be strange."""
    alarms = first_alarms(ranks)
    raised = int((alarms > 0).sum())
    low, high = binomtest(raised, len(alarms)).proportion_ci(0.95)
    waited = np.where(alarms > onset, alarms - onset, np.inf)
    quartiles = [None if np.isinf(q) else int(q) for q in np.quantile(waited, [0.25, 0.5, 0.75], method="higher")]
    row = {"streams": name, "count": len(alarms), "length": LENGTH, "level": LEVEL, "alarms": raised / len(alarms)}
    return row | {"interval": [low, high], "delay_quartiles": quartiles}


def measured(calibration: Floats, normal: Floats, anomalous: Floats, count: int) -> list[dict[str, object]]:
    kinds = [
        ("clean", 0.0, 0, False),
        ("clean, ranked among the calibration alone (not what --monitor does)", 0.0, 0, True),
        ("5 % anomalous from the first input", 0.05, 0, False),
        ("5 % anomalous from input 501", 0.05, 500, False),
        ("2 % anomalous from the first input", 0.02, 0, False),
        ("1 % anomalous from the first input", 0.01, 0, False),
    ]
    return [
        judged(name, streams(calibration, normal, anomalous, share, onset, count, fixed), onset)
        for name, share, onset, fixed in kinds
    ]


def print_rows(rows: list[dict[str, object]]) -> None:
    print("| streams | alarms | 95 % interval | delay: quartile, median, quartile |\n|---|---|---|---|")
    for row in rows:
        low, high = row["interval"]  # type: ignore[misc]
        waits = ", ".join("none" if wait is None else str(wait) for wait in row["delay_quartiles"])  # type: ignore[attr-defined]
        told = waits if "anomalous" in str(row["streams"]) else ""
        print(f"| {row['streams']} | {row['alarms']:.1%} | {low:.1%}-{high:.1%} | {told} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path)
    parser.add_argument("--test", type=Path, help="labelled inputs: x and is_anomalous")
    parser.add_argument("--streams", type=int, default=1000)
    args = parser.parse_args()
    if (args.pipeline is None) != (args.test is None):
        parser.error("give both --pipeline and --test, or neither")
    started = time.perf_counter()
    with TemporaryDirectory() as scratch:
        sets = score_sets(*((args.pipeline, args.test) if args.pipeline else fitted(Path(scratch))))
    sizes = dict(zip(("calibration", "normal", "anomalous"), map(len, sets), strict=True))
    print(f"real scores: {sizes}; {args.streams} streams of {LENGTH} inputs, alarm at {1 / LEVEL:g}")
    rows = measured(*sets, args.streams)
    print_rows(rows)
    source = args.pipeline.name if args.pipeline else TASK
    with RESULTS.open("a") as file:
        file.write(json.dumps({"scores": source, **sizes, "rows": rows}) + "\n")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
