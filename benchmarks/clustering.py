"""How long clustering takes, on made-up activity of known groups.

    python benchmarks/clustering.py --subcomponents 2000 --rows 10000

Each of `mechanisms` is on for a share `rate` of the rows; a subcomponent follows one of them, misses a tenth of its
rows, and is on by chance for a share `noise`. Times are of the processor.
"""

import argparse
import time

import torch
from torch import Tensor

from madpipe.decomposition.clustering import cluster


def activity(subcomponents: int, rows: int, mechanisms: int, rate: float, noise: float) -> Tensor:
    """bool [rows, subcomponents]."""
    generator = torch.Generator().manual_seed(0)
    on = torch.rand(rows, mechanisms, generator=generator) < rate
    followed = on[:, torch.randint(mechanisms, (subcomponents,), generator=generator)]
    kept = torch.rand(rows, subcomponents, generator=generator) < 0.9
    return followed & kept | (torch.rand(rows, subcomponents, generator=generator) < noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subcomponents", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--restarts", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for mechanisms, rate, noise in ((20, 0.3, 1e-2), (400, 0.02, 1e-3), (2000, 0.05, 1e-2)):
        active = activity(asked.subcomponents, asked.rows, mechanisms, rate, noise)
        started = time.process_time()
        found = cluster(active, restarts=asked.restarts)
        seconds = time.process_time() - started
        print(f"{mechanisms} mechanisms, rate {rate}, noise {noise}: {len(found.groups)} groups, {seconds:.1f} s")


if __name__ == "__main__":
    main()
