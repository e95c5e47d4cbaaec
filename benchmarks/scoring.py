"""Cost of scoring against the plain forward pass, and memory over a million rows.

    python benchmarks/scoring.py                       # fits a digits MLP, prints the ratio at several batch sizes
    python benchmarks/scoring.py --networks            # the ratio for networks of 1e5 to 2e6 parameters
    python benchmarks/scoring.py --million             # peak memory over a million-row .npy as well
    python benchmarks/scoring.py --shards 200000       # two shards side by side against one process, on that many rows
    python benchmarks/scoring.py --pipeline DIR        # the same for a pipeline of yours

The ratio is wall time of scoring 10,000 inputs, score table and top_components included, after loading, over that of
the target's own forward pass (float32, no gradient) on the same inputs and batch size; medians of interleaved repeats.
Digits networks get random inputs, most of them flagged and their parts named; --networks fits fully connected networks
of random weights on inputs of low rank, and scores as many new ones.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

ROWS, REPEATS = 10_000, 9
CONFIG = "task: {name: digits, attack: conj, net: mlp, seed: 0}\ntracking: {enabled: false}\n"


NETWORKS = {"64-288-288-10": (288, 2), "64-512-512-10": (512, 2), "64-1024-1024-1024-10": (1024, 3)}
FACTORY = """
from torch import nn

def build(width, depth):
    layers = [nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))
"""
OWN = """
target: {{factory: "network.py:build", kwargs: {{width: {width}, depth: {depth}}}, weights: weights.safetensors}}
data: {{trusted: trusted.npy}}
tracking: {{enabled: false}}
decomposition: {{steps: 50}}  # what is learnt does not change what scoring costs
"""


# Peak memory of this program alone: what getrusage tells includes the benchmark's own memory, from before the exec.
PEAK = """
import sys
from madpipe.cli.main import group
group.main(sys.argv[1:], standalone_mode=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def fit_digits(folder: Path) -> Path:
    from madpipe.config.loading import load_config
    from madpipe.workflows.fit import fit

    (folder / "config.yaml").write_text(CONFIG)
    started = time.perf_counter()
    output = folder / "pipeline"
    fit(load_config(folder / "config.yaml"), base=folder, output=output, report=lambda line: None)
    print(f"fit of a digits MLP on {torch.get_num_threads()} thread: {time.perf_counter() - started:.1f} s")
    return output


def fit_network(folder: Path, width: int, depth: int) -> tuple[Path, np.ndarray]:
    """(a pipeline of a network of random weights, new inputs like its trusted ones)"""
    from safetensors.torch import save_file

    from madpipe.config.loading import load_config
    from madpipe.workflows.fit import fit

    folder.mkdir()
    scope: dict = {}
    exec(FACTORY, scope)
    torch.manual_seed(0)
    save_file(scope["build"](width, depth).state_dict(), folder / "weights.safetensors")
    (folder / "network.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(2_000 + ROWS, 30)) @ rng.normal(size=(30, 64)) / 5).astype(np.float32)
    np.save(folder / "trusted.npy", rows[:2_000])
    (folder / "config.yaml").write_text(OWN.format(width=width, depth=depth))
    fit(load_config(folder / "config.yaml"), base=folder, output=folder / "pipeline", report=lambda line: None)
    return folder / "pipeline", rows[2_000:]


def print_networks(scratch: Path) -> None:
    for name, (width, depth) in NETWORKS.items():
        folder, x = fit_network(scratch / name, width, depth)
        print(f"\n{name}, {sum(p.numel() for p in _target(folder).parameters()):,} parameters:")
        print_ratios(folder, x, sizes=(1024,))


def _target(folder: Path) -> torch.nn.Module:
    from madpipe.pipeline.scorer import Pipeline

    return Pipeline.load(folder).method.model.target


def print_ratios(folder: Path, x: np.ndarray | None = None, sizes: tuple[int, ...] = (256, 1024, 4096)) -> None:
    from madpipe.pipeline.scorer import Pipeline
    from madpipe.workflows.score import score_batch

    pipeline = Pipeline.load(folder)
    target = pipeline.method.model.target
    float_target = copy.deepcopy(target).float()
    if x is None:
        x = np.random.default_rng(0).random((ROWS, *pipeline.input_shape), dtype=np.float32)
    ids = [str(i) for i in range(ROWS)]
    print("| batch size | plain forward, ms | scoring, ms | ratio |\n|---|---|---|---|")
    for size in sizes:
        forward, scoring = [], []
        for _ in range(REPEATS):
            started = time.perf_counter()
            with torch.no_grad():
                for i in range(0, ROWS, size):
                    float_target(torch.from_numpy(x[i : i + size]))
            middle = time.perf_counter()
            for i in range(0, ROWS, size):
                score_batch(pipeline, ids[i : i + size], x[i : i + size], 0.01)
            forward.append(middle - started)
            scoring.append(time.perf_counter() - middle)
        f, s = statistics.median(forward), statistics.median(scoring)
        print(f"| {size} | {1e3 * f:.1f} | {1e3 * s:.1f} | {s / f:.1f} |")


def print_memory(folder: Path, scratch: Path) -> None:
    """Peak resident memory of `madpipe score` in a process of its own, over lengths of the same file."""
    shape = (64,)
    whole = np.lib.format.open_memmap(scratch / "rows.npy", "w+", np.float32, (1_000_000, *shape))
    rng = np.random.default_rng(0)
    for i in range(0, len(whole), 50_000):
        whole[i : i + 50_000] = rng.random((50_000, *shape), dtype=np.float32)
    whole.flush()
    print("| rows | peak memory, MB | seconds |\n|---|---|---|")
    for rows in (10_000, 100_000, 1_000_000):
        part = scratch / f"{rows}.npy"
        np.save(part, np.lib.format.open_memmap(scratch / "rows.npy", "r")[:rows])
        output = scratch / "scores.parquet"
        words = ["score", "--pipeline", str(folder), str(part), "-o", str(output)]
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", PEAK, *words], check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        peak = int(done.stdout.split()[-1]) / 1024
        print(f"| {rows:,} | {peak:.0f} | {seconds:.1f} |")


def print_shards(folder: Path, scratch: Path, rows: int) -> None:
    """Wall time of `score --shard` with all shards side by side, one thread each, start and loading included."""
    from madpipe.pipeline.folder import read_facts

    shape = (rows, *read_facts(folder)["input_shape"])
    np.save(scratch / "rows.npy", np.random.default_rng(0).random(shape, dtype=np.float32))
    words = [sys.executable, "-m", "madpipe", "score", "--pipeline", str(folder), str(scratch / "rows.npy")]
    seconds = {}
    print("| shards | seconds | inputs a second | scaling |\n|---|---|---|---|")
    for shards in (1, 2):
        outputs = [str(scratch / f"{i}-{shards}.parquet") for i in range(shards)]
        started = time.perf_counter()
        running = [
            subprocess.Popen([*words, "--shard", f"{i}/{shards}", "-o", output]) for i, output in enumerate(outputs)
        ]
        assert [process.wait() for process in running] == [0] * shards
        seconds[shards] = time.perf_counter() - started
        scaling = seconds[1] / seconds[shards]
        print(f"| {shards} | {seconds[shards]:.1f} | {rows / seconds[shards]:,.0f} | {scaling:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path)
    parser.add_argument("--networks", action="store_true")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--shards", type=int, metavar="ROWS")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        if args.networks:
            print_networks(Path(scratch))
            return
        folder = args.pipeline or fit_digits(Path(scratch))
        print_ratios(folder)
        if args.million:
            print_memory(folder, Path(scratch))
        if args.shards:
            print_shards(folder, Path(scratch), args.shards)


if __name__ == "__main__":
    main()
