"""User errors, each with the exit code the command ends with.

    MadpipeError                     1  something failed that is nobody's typing mistake
    |-- TrackingError                1  the MLflow store refuses, or its address is none
    |   `-- UnreachableError         1  the MLflow store does not answer: what is sent later may succeed
    |-- MemoryShortError             1  the least that has to be held at once does not fit into memory
    |-- DivergedError                1  a loss or a parameter became NaN or infinite
    |-- OutOfTimeError               5  trainer.max_time is over: the same command continues
    |-- UsageError                   2  what was asked for cannot be meant
    |   |-- ConfigError              2  unknown or wrong key, value or combination in a config
    |   |-- UnknownNameError         2  no such method, extractor, detector, task, glob, column or key
    |   |-- MissingFileError         2  a named file or folder is not there (or is in the way)
    |   `-- FactoryError             2  the target's factory is missing, raises, or gives no nn.Module
    `-- ContentError                 4  a file was read, and its content does not fit
        |-- ShapeError               4  wrong shape or dtype
        |-- NonFiniteError           4  NaN or infinite inputs
        |-- WeightsError             4  weights that do not fit the target
        |-- TooFewRowsError          4  not enough trusted rows
        `-- DamagedFileError         4  truncated, altered, or holding what is not allowed there (a pickle)

The text of an error is one line: what was asked, what there is, what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MadpipeError(Exception):
    exit_code = 1


class TrackingError(MadpipeError):
    pass


class UnreachableError(TrackingError):
    pass


class MemoryShortError(MadpipeError):
    pass


class DivergedError(MadpipeError):
    pass


class OutOfTimeError(MadpipeError):
    exit_code = 5


class UsageError(MadpipeError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class UnknownNameError(UsageError):
    pass


class MissingFileError(UsageError):
    pass


class FactoryError(UsageError):
    pass


class ContentError(MadpipeError):
    exit_code = 4


class ShapeError(ContentError):
    pass


class NonFiniteError(ContentError):
    pass


class WeightsError(ContentError):
    pass


class TooFewRowsError(ContentError):
    pass


class DamagedFileError(ContentError):
    pass


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of every unknown-name message: `" Did you mean 'spd'? Known: apd, spd."`, or the list alone."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return f"{guess} Known: {', '.join(names)}." if names else f"{guess} There are none."


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> UnknownNameError:
    """The error for a name that is in no table: `unknown("method", "spdd", METHODS)`."""
    return UnknownNameError(f"{where}no {kind} named '{name}'.{nearest(name, known)}")
