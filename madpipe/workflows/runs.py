"""`runs`: the pipelines of a store with their figures."""

from typing import Any

from madpipe.tracking.addresses import existing_store


def list_runs(
    *,
    experiment: str | None = None,
    words: tuple[str, ...] = (),
    limit: int | None = None,
    tracking_uri: str | None = None,
) -> list[dict[str, Any]]:
    """Fitted pipelines, newest first. MissingFileError where nothing has been logged: looking makes no store."""
    uri = existing_store(tracking_uri)
    from madpipe.tracking.run_list import fitted_pipelines

    return fitted_pipelines(uri, experiment=experiment, words=words, limit=limit)
