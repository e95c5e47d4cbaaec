"""What Lightning's Trainer costs: the same steps in a plain loop and under `train`, on superposition 5-2 as it comes.

    python benchmarks/trainer_overhead.py                    # about a minute on one core
    python benchmarks/trainer_overhead.py --steps 1000 --repeats 5

Both begin at the same start and take the same steps, in turn; the fastest of each is compared. Seconds are those of
the processor, so that other work on the machine counts for little. Checkpoints are part of what `train` does and costs.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from madpipe.decomposition.method import Method
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, take_step
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.decomposition.training import train
from madpipe.pipeline.source import make_source
from madpipe.registry import METHODS
from madpipe.tasks.build import build_task
from madpipe.tasks.superposition import SuperpositionTask


def started(method_name: str, steps: int) -> tuple[Method, torch.Tensor]:
    task = build_task({"name": "superposition"})
    source = make_source(task.target, task.sites, task.trusted, "x", task.name)
    settings = SuperpositionTask.decomposition_defaults[method_name] | {"steps": steps}
    method_class = METHODS.load(method_name)
    config = method_class.Config(**settings)
    method = method_class(source.target.module, source.sites, config, len(method_class.variants(config)))
    trusted = torch.from_numpy(task.trusted)
    statistics = trusted_statistics(source.target.module, source.sites, trusted, source.target.output)
    method.initialise(statistics, torch.Generator().manual_seed(0))
    return method, trusted


def plain_seconds(method: Method, trusted: torch.Tensor) -> float:
    rows = [torch.arange(len(trusted))] * method.model.instances
    optimizer = make_optimizer(method)
    begun = time.process_time()
    for step in range(method.config.steps):
        take_step(method, optimizer, draw_batch(method, trusted, rows, step, 0), step)
    return time.process_time() - begun


def trained_seconds(method: Method, trusted: torch.Tensor) -> float:
    rows = [torch.arange(len(trusted))] * method.model.instances
    with TemporaryDirectory() as folder:
        begun = time.process_time()
        train(
            method,
            trusted,
            rows,
            seed=0,
            checkpoints=Path(folder),
            trainer_options={"accelerator": "cpu"},
            progress=lambda step, terms: None,
        )
        return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="spd")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    plain, trained = [], []
    for _ in range(args.repeats):
        plain.append(plain_seconds(*started(args.method, args.steps)))
        trained.append(trained_seconds(*started(args.method, args.steps)))
    overhead = min(trained) / min(plain) - 1
    print(f"{args.method}, {args.steps} steps: plain {min(plain):.2f} s, Trainer {min(trained):.2f} s")
    print(f"overhead {overhead:.1%}")


if __name__ == "__main__":
    main()
