"""What is asked of a file of `torch.save` before torch reads it: that it can be read in time and memory like its own.

`torch.load(weights_only=True)` runs no code, yet inflates whatever an archive claims, and hashes a tuple of tuples of
tuples as often as it is referred to: 300 bytes keep it busy for years. It also makes a bytearray of any size.
"""

import pickletools
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, is_zipfile

from madpipe.archives import refuse_inflation
from madpipe.errors import DamagedFileError

LEGACY_PICKLES = 5  # magic number, protocol, machine, the state dict, keys of its storages; then raw bytes
SHARED_TUPLES = 16  # a state dict of torch has none; a checkpoint around one a few
PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
GETS = ("GET", "BINGET", "LONG_BINGET")
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


def refuse_hostile(path: Path) -> None:
    """DamagedFileError for a zip bomb, for what is no pickle, and for tuples referred to again and again."""
    if is_zipfile(path):
        refuse_inflation(path)
    try:
        shared = _shared_tuples(path)
    except Exception as error:  # pickletools and zipfile raise many kinds for a crafted file
        raise DamagedFileError(f"{path} is no file of torch.save ({type(error).__name__})") from error
    if shared > SHARED_TUPLES:
        raise DamagedFileError(f"{path} refers to {shared} tuples again, which no state dict does")


def _shared_tuples(path: Path) -> int:
    if not is_zipfile(path):
        with path.open("rb") as file:
            return sum(_tuples_used_again(file) for _ in range(LEGACY_PICKLES))
    shared = 0
    with ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".pkl"):
                with archive.open(member) as part:
                    shared += _tuples_used_again(part)
    return shared


def _tuples_used_again(file: IO[bytes]) -> int:
    """How many references the pickle that begins here has to tuples that it wrote before. Nothing is unpickled."""
    tuples: set[int] = set()
    noted, shared, before = 0, 0, ""
    for opcode, given, _ in pickletools.genops(file):
        argument: Any = given
        if opcode.name in PUTS:
            place = noted if opcode.name == "MEMOIZE" else int(argument)
            (tuples.add if before in TUPLES else tuples.discard)(place)
            noted += 1
        elif (opcode.name in GETS and int(argument) in tuples) or opcode.name == "DUP":
            shared += 1
        elif opcode.name == "GLOBAL" and argument.endswith("bytearray"):
            raise DamagedFileError("a bytearray, which may be told to be of any size")
        before = before if opcode.name in PUTS else opcode.name
    return shared
