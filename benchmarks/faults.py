"""The fault table: every fault of tests/faults really done, how often, and how often something was lost or corrupt.

    python benchmarks/faults.py                # 20 fits killed at random moments, all else as in the tests
    python benchmarks/faults.py --kills 2      # the short form

A fault counts as lost where its test fails: a result, a store or a score file that is not what it is without the fault.
Ends with 1 where one was. Rows are appended to benchmarks/results/faults.jsonl.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "faults.jsonl"


def run_tests(kills: int) -> tuple[Counter[str], Counter[str], int]:
    """(times tried, times lost) by fault, and how pytest ended."""
    tried, lost = Counter[str](), Counter[str]()
    with TemporaryDirectory() as scratch:
        record = Path(scratch) / "record.jsonl"
        settings = {"MADPIPE_FAULTS_KILLS": str(kills), "MADPIPE_FAULTS_RECORD": str(record), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "pytest", "-rs", "tests/faults"]
        code = subprocess.run(words, cwd=ROOT, env=os.environ | settings, check=False).returncode
        for line in record.read_text().splitlines() if record.exists() else ():
            row = json.loads(line)
            tried[row["fault"]] += row["times"]
            lost[row["fault"]] += row["lost"]
    return tried, lost, code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="fits killed at random moments")
    tried, lost, code = run_tests(parser.parse_args().kills)
    print("| fault | times tried | times lost or corrupt |\n|---|---|---|")
    for fault in tried:
        print(f"| {fault} | {tried[fault]} | {lost[fault]} |")
    faults = {fault: {"tried": tried[fault], "lost": lost[fault]} for fault in tried}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps({"at": time.strftime("%Y-%m-%d"), "pytest": code, "faults": faults}) + "\n")
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
