"""`promote`: a registered version becomes the champion after its stored example was scored anew."""

from dataclasses import asdict
from typing import Any

from madpipe.errors import UsageError
from madpipe.tracking.addresses import existing_store


def promote(
    name: str,
    version: str,
    *,
    if_better: str | None = None,
    trust_code: bool = False,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """The champion of `name` before and after; `version` is a number or an alias such as `@candidate`.

    With `if_better`, a metric of logged evaluations, the result also holds `compared`; where the champion is not
    beaten it stays, and `version` is its own.
    """
    if name.startswith(("models:", "runs:")) or set("/@:") & set(name):
        raise UsageError(f"'{name}' is no registered name; write 'madpipe promote NAME VERSION' or NAME @ALIAS.")
    uri = existing_store(tracking_uri)
    from madpipe.tracking.candidacy import compared_with_champion
    from madpipe.tracking.promotion import promote as make_champion

    comparison = compared_with_champion(name, version, if_better, uri) if if_better else None
    compared = {"compared": asdict(comparison)} if comparison else {}
    if comparison and not comparison.better:
        return {"name": name, "version": comparison.champion, "previous": comparison.champion, **compared}
    made = make_champion(name, version, trust_code, uri)
    return {
        "name": made.name,
        "version": made.version,
        "previous": made.previous,
        "example_rows": made.rows,
        **compared,
    }
