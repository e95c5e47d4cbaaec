"""`sync`: what a tracking server could not take during a fit is sent to it."""

import os
from dataclasses import dataclass
from pathlib import Path

from madpipe.errors import MissingFileError
from madpipe.tracking.addresses import redact
from madpipe.tracking.sending import send_kept
from madpipe.tracking.spool import is_spool, unsent_folder, where_kept


@dataclass(frozen=True)
class SyncResult:
    """sent: the number of writes that were kept. address: of the store that has them now, None where none was kept."""

    sent: int
    address: str | None


def sync(path: Path, tracking_uri: str | None) -> SyncResult:
    """Send what is kept beside the result at `path`, or in the folder `path` itself; then remove it.

    Address: `tracking_uri`, else MLFLOW_TRACKING_URI where it is that of the store it was meant for (and may hold the
    password, which is kept nowhere), else that of the store it was meant for.
    """
    path = path.absolute()
    folder = next((place for place in (path, unsent_folder(path)) if is_spool(place)), None)
    if folder is None:
        if not path.exists() and not path.name.endswith(unsent_folder(Path("x")).suffix):
            raise MissingFileError(f"{path} is not there, and nothing is kept for it in {unsent_folder(path)}.")
        return SyncResult(0, None)
    meant, _ = where_kept(folder)
    around = os.environ.get("MLFLOW_TRACKING_URI", "")
    address = tracking_uri or (around if redact(around) == meant else meant)
    return SyncResult(send_kept(folder, address), redact(address))
