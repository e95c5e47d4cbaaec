"""`serve`: a pipeline answers over HTTP, through MLflow's scoring server."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from madpipe.pipeline.scorer import Pipeline
from madpipe.workflows.score import pipeline_folder
from madpipe.workflows.ui import check_port


def serve(
    pipeline: str,
    *,
    host: str = "127.0.0.1",
    port: int = 5001,
    workers: int = 1,
    trust_code: bool = False,
    tracking_uri: str | None = None,
    ready: Callable[[str], None],
) -> None:
    """Serve until a signal; `ready(url)` is called when the first request can be answered. Port 0 takes a free one.

    A folder is packed as an MLflow model in a temporary place, so it needs no registry.
    """
    port = check_port(host, port)
    folder = pipeline_folder(pipeline, trust_code, tracking_uri)
    loaded = Pipeline.load(folder)
    from madpipe.tracking.packaging import write_model
    from madpipe.tracking.scoring_server import local_url, run_server

    with TemporaryDirectory(prefix="madpipe-") as scratch:
        packed = Path(scratch) / "model"
        write_model(packed, loaded, folder)
        url = local_url(host, port)
        run_server(packed, host=host, port=port, workers=workers, ready=lambda: ready(url))
