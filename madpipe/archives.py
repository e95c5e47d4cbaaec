"""Zip archives made by strangers: nothing in them may be larger than the file they came in."""

from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

from madpipe.errors import DamagedFileError


def refuse_inflation(path: Path) -> None:
    """DamagedFileError where a part of the archive is compressed, or parts overlap.

    For formats whose own writer compresses nothing (skops, torch) and whose reader takes parts whole into memory: what
    would inflate was made by something else.
    """
    try:
        with ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile raises many kinds for a crafted file
        raise DamagedFileError(f"{path} is no readable archive ({type(error).__name__}); make it again") from error
    compressed = any(member.compress_type != ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > path.stat().st_size:
        raise DamagedFileError(
            f"{path} holds compressed or overlapping parts, as a zip bomb does; save it again as it was"
        )
