"""The pictures of the README: pages that madpipe makes, as Chromium shows them.

    python benchmarks/screenshots.py                                # fits a digits MLP, then every shot of the table
    python benchmarks/screenshots.py --only report --work DIR       # makes things in DIR, and uses what is there
    python benchmarks/screenshots.py --only report --width 400 --height 4000 --dark -o .

Needs Chromium (Debian: chromium). Another shot is a line of SHOTS, and a function that makes its page and gives the
address for as long as it is needed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

from PIL import Image

IMAGES = Path(__file__).parents[1] / "docs" / "images"
TASK = "digits-conj-mlp-0"
MOST_BYTES = 250_000
COLOURS = (256, 128, 64)  # of the palette, the first with which a picture is small enough
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@dataclass(frozen=True)
class Shot:
    """page: the address of what is shown, given the folder in which things are made. Sizes in CSS pixels."""

    page: Callable[[Path], AbstractContextManager[str]]
    width: int
    height: int
    dark: bool = False
    narrowed_to: int | None = None  # pixels in width of the picture that is kept


def madpipe(work: Path, *words: object) -> None:
    """Run the command in `work`, where its store is too."""
    subprocess.run([sys.executable, "-m", "madpipe", *map(str, words)], cwd=work, check=True)


def example(work: Path) -> Path:
    """The files of a task, and a pipeline fitted on them."""
    folder = work / "example"
    if not folder.is_dir():
        madpipe(work, "tasks", "export", TASK, folder)
    if not (work / "pipeline").is_dir():
        madpipe(work, "fit", folder / "config.yaml", "-o", "pipeline")
    return folder


@contextmanager
def report(work: Path) -> Iterator[str]:
    """The page of `madpipe report`."""
    inputs = example(work).relative_to(work) / "test.npz"
    if not (work / "report.html").is_file():
        options = ("--label", "is_anomalous", "--image", "8x8", "-o", "report.html")
        madpipe(work, "report", "--pipeline", "pipeline", "--inputs", inputs, *options)
    yield (work / "report.html").as_uri()


@contextmanager
def explanation(work: Path) -> Iterator[str]:
    """The figure of the most anomalous input that `madpipe explain` explains."""
    inputs = example(work).relative_to(work) / "test.npz"
    if not (work / "explanations").is_dir():
        madpipe(work, "explain", "--pipeline", "pipeline", inputs, "--image", "8x8", "-o", "explanations")
    document = json.loads((work / "explanations" / "explanations.json").read_text())
    figure = work / "explanations" / f"input-{document['explanations'][0]['input_id']}.png"
    shown = work / "explanation.html"
    shown.write_text(f'<body style="margin:0"><img src="{figure.as_uri()}" style="width:100%">')
    yield shown.as_uri()


SHOTS = {
    "report": Shot(report, 1200, 1900, narrowed_to=900),
    "explanation": Shot(explanation, 1400, 560),
}


def photograph(shot: Shot, address: str, path: Path) -> None:
    """A PNG with a palette, no larger than MOST_BYTES unless that takes too few colours."""
    with TemporaryDirectory() as scratch:
        taken = Path(scratch) / "taken.png"
        dark = ["--blink-settings=preferredColorScheme=0"] if shot.dark else []
        size = [f"--window-size={shot.width},{shot.height}", f"--screenshot={taken}"]
        browser = ["chromium", *QUIET, f"--user-data-dir={scratch}/profile", *dark, *size, address]
        subprocess.run(browser, check=True, capture_output=True, timeout=120)
        with Image.open(taken) as picture:
            drawn = picture.convert("RGB")
    if shot.narrowed_to:
        height = round(shot.height * shot.narrowed_to / shot.width)
        drawn = drawn.resize((shot.narrowed_to, height), Image.Resampling.LANCZOS)
    for colours in COLOURS:
        drawn.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            break
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SHOTS, action="append", help="may be repeated")
    parser.add_argument("--work", type=Path, help="where pages are made; default: a folder that is removed")
    parser.add_argument("-o", "--output", type=Path, default=IMAGES)
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    changed = {name: value for name in ("width", "height") if (value := getattr(options, name))}
    if options.width:
        changed["narrowed_to"] = None
    with TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        for name in options.only or SHOTS:
            shot = replace(SHOTS[name], dark=options.dark, **changed)
            with shot.page(work) as address:
                photograph(shot, address, options.output / f"{name}.png")


if __name__ == "__main__":
    main()
