"""Fitted detectors on disk: skops files, of which nothing is built that is not on a list in the code."""

from importlib.metadata import entry_points
from math import prod
from pathlib import Path
from zipfile import ZipFile

from numpy.lib import format as npy_format

from madpipe.archives import refuse_inflation
from madpipe.detectors.detector import Detector
from madpipe.errors import DamagedFileError, MissingFileError
from madpipe.registry import DETECTORS

READ_HEADER = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


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
    refuse_inflation(path)  # skops reads every part whole, and stores them uncompressed
    try:
        _refuse_claims(path)
        estimator = io.load(path, trusted=allowed_types())
    except UntrustedTypesFoundException as error:
        raise DamagedFileError(f"{path} holds a type that is not allowed: {' '.join(str(error).split())}") from error
    except Exception as error:  # a crafted or broken file may fail anywhere in skops, in any way
        raise DamagedFileError(f"{path} is no readable detector file ({type(error).__name__}); fit again") from error
    if not isinstance(estimator, Detector):
        raise DamagedFileError(f"{path} holds a {type(estimator).__name__}, which is no detector")
    return estimator


def _refuse_claims(path: Path) -> None:
    """ValueError where an array claims more bytes than it has: numpy sets the memory aside before it reads."""
    with ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                read = READ_HEADER[npy_format.read_magic(file)]
                shape, _, dtype = read(file)
                if prod(shape) * dtype.itemsize > member.file_size:
                    raise ValueError(f"{member.filename} claims the shape {shape}")
