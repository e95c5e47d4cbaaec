"""Coverage-guided fuzzing of everything that reads a file: inputs tried and crashes, a line for each target.

    python benchmarks/fuzz.py                           # every target, ten seconds each
    python benchmarks/fuzz.py config npz --seconds 600

A crash is an exception that is not madpipe's own, a call of an unpickler, more than 2 GiB of memory, ten seconds for
one input, or the death of the process. Inputs that crash, once for each place in the code, go to
build/fuzzing/<target>/; results are appended to benchmarks/results/fuzz.jsonl. Needs Atheris (`make soak` brings it).
The targets are those of tests/security/targets.py, where every crash that is found becomes a test.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MADPIPE_CACHE", "build/fuzzing/cache")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.jsonl"
FOUND = ROOT / "build" / "fuzzing"
NAMES = ("config", "npy", "npz", "csv", "parquet", "safetensors", "weights", "detector", "manifest", "pipeline")
LIMITS = ("-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1", "-max_len=65536")
CONFIG = "task: {name: boolean}\ndecomposition: {steps: 20}\ntracking: {enabled: false}\n"

sys.path[:0] = [str(ROOT / "tests" / "security"), str(ROOT / "build" / "atheris")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"any of: {', '.join(NAMES)}; default: all")
    parser.add_argument("--seconds", type=int, default=10, help="for each target (default %(default)s)")
    parser.add_argument("--inside", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := sorted(set(options.targets) - set(NAMES)):
        parser.error(f"no target named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.inside:
        fuzz(options.targets[0], options.seconds, options.inside)
    crashes = 0
    print(f"{'target':<12} {'inputs tried':>12} {'seconds':>8} {'crashes':>8}")
    for name in options.targets or NAMES:
        result = fuzzed(name, options.seconds)
        crashes += result["crashes"]
        print(f"{name:<12} {result['inputs']:>12,} {result['seconds']:>8} {result['crashes']:>8}", flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    sys.exit(1 if crashes else 0)


def fuzzed(name: str, seconds: int) -> dict[str, int | str]:
    """Fuzz in processes of their own, a new one after each that died, until the time is over."""
    found, start, inputs, deaths = FOUND / name, time.monotonic(), 0, 0
    found.mkdir(parents=True, exist_ok=True)
    for old in found.iterdir():
        old.unlink()
    while (left := round(start + seconds - time.monotonic())) > 0:
        with TemporaryDirectory() as folder:
            words = [sys.executable, __file__, name, "--seconds", str(left), "--inside", folder]
            ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        executed = re.findall(r"number_of_executed_units:\s*(\d+)|^#(\d+)\s", ended.stderr, re.MULTILINE)
        inputs += max((int(a or b) for a, b in executed), default=0)
        if ended.returncode:
            deaths += 1
            (found / f"death-{deaths}.log").write_text(ended.stderr)
            if not executed:
                sys.exit(f"fuzzing {name} did not begin: {ended.stderr[-2000:]}")
    crashes = deaths + len([path for path in found.iterdir() if path.suffix == ".input"])
    return {"target": name, "seconds": round(time.monotonic() - start), "inputs": inputs, "crashes": crashes}


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Feed one target until the time is over; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["madpipe", "yaml", "zipfile", "numpy.lib", "skops", "json"]):
        from targets import forbid_pickles

        target = prepared(name, folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(target.seeds):
        (corpus / str(i)).write_bytes(seed)
    forbid_pickles()
    once = noting(target.run, FOUND / name)
    artifacts = f"-artifact_prefix={FOUND / name}/"
    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", artifacts, *LIMITS], once)
    atheris.Fuzz()


def prepared(name: str, folder: Path):
    import targets

    if name == "config":
        seeds = [path.read_bytes() for path in sorted((ROOT / "configs").glob("fit/*.yaml"))]
        return targets.config_target(folder, tuple(seeds))
    if name in ("npy", "npz", "csv", "parquet", "safetensors"):
        return targets.rows_target(folder, f".{name}")
    if name == "weights":
        return targets.weights_target(folder, ".pt")
    if name == "detector":
        return targets.detector_target(folder)
    make = targets.manifest_target if name == "manifest" else targets.pipeline_target
    return make(fitted(folder))


def fitted(folder: Path) -> Path:
    """A small pipeline."""
    from madpipe.config.loading import load_config
    from madpipe.workflows.fit import fit

    (folder / "config.yaml").write_text(CONFIG)
    fit(load_config(folder / "config.yaml"), base=folder, output=folder / "pipeline", report=lambda line: None)
    return folder / "pipeline"


def noting(run: Callable[[bytes], None], found: Path) -> Callable[[bytes], None]:
    """`run`, with inputs that raise what they may not written to `found`, the first for each place in the code."""
    from madpipe.errors import MadpipeError

    def once(content: bytes) -> None:
        try:
            run(content)
        except MadpipeError:
            return
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "madpipe" in frame.filename] or frames
            place = f"{type(error).__name__} {ours[-1].filename}:{ours[-1].lineno}"
            path = found / f"{hashlib.sha256(place.encode()).hexdigest()[:12]}.input"
            if not path.exists():
                path.write_bytes(content)
                path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))

    return once


if __name__ == "__main__":
    main()
