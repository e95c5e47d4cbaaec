"""Fitted detectors on disk: skops files, of which nothing is built that is not on a list in the code."""

from importlib.metadata import entry_points
from pathlib import Path

from madpipe.detectors.detector import Detector
from madpipe.errors import DamagedFileError, MissingFileError
from madpipe.registry import DETECTORS


def allowed_types() -> list[str]:
    """The registered detectors, our own and those of installed packages.

    Their state is arrays, numbers, strings and, for the mixture, scikit-learn's GaussianMixture, all of which skops
    admits by itself. No search tree is needed: a crafted one could make its compiled reader step outside its memory.
    """
    own = list(DETECTORS.values())
    installed = [point.value for point in entry_points(group=DETECTORS.group)]
    return sorted({name.replace(":", ".") for name in own + installed})


def save(estimator: Detector, path: Path) -> None:
    """Write one fitted detector (no pickle). The caller makes the file whole-or-absent."""
    from skops import io  # type: ignore[import-untyped]

    io.dump(estimator, path)


def load(path: Path) -> Detector:
    """The detector saved at `path`, as fitted. The file is not trusted: whatever is not on the list is refused unbuilt.

    Raises MissingFileError, or DamagedFileError for a broken file, a forbidden type, or something that is no detector.
    """
    from skops import io
    from skops.io.exceptions import UntrustedTypesFoundException  # type: ignore[import-untyped]

    if not path.is_file():
        raise MissingFileError(f"no detector file {path}; fit the pipeline again")
    try:
        estimator = io.load(path, trusted=allowed_types())
    except UntrustedTypesFoundException as error:
        raise DamagedFileError(f"{path} holds a type that is not allowed: {' '.join(str(error).split())}") from error
    except Exception as error:  # a crafted or broken file may fail anywhere in skops, in any way
        raise DamagedFileError(f"{path} is no readable detector file ({type(error).__name__}); fit again") from error
    if not isinstance(estimator, Detector):
        raise DamagedFileError(f"{path} holds a {type(estimator).__name__}, which is no detector")
    return estimator
