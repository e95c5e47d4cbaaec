"""Whether a registered version was evaluated to be better than the champion of its name, on the same labelled data."""

from dataclasses import dataclass
from typing import Any

from madpipe.errors import UsageError
from madpipe.tracking.run_list import fitted_pipelines


@dataclass(frozen=True)
class Comparison:
    """`value` of the version against that of the champion, both of their newest logged evaluation."""

    metric: str
    version: int
    value: float
    champion: int
    champion_value: float

    @property
    def better(self) -> bool:
        """Whether the champion is to go; a version that is champion already may stay it."""
        return self.version == self.champion or self.value > self.champion_value


def compared_with_champion(name: str, version: str, metric: str, tracking_uri: str | None = None) -> Comparison | None:
    """`version` (a number or `@alias`) of `name` and its champion; None where there is no champion to beat.

    `metric`: a figure of `evaluate --log`, higher = better. UsageError where a version has no logged evaluation, or
    where the newest ones are of different data (by digest): nobody could say which is better.
    """
    rows = {
        words.split()[0]: (words.split()[1:], row)
        for row in fitted_pipelines(tracking_uri)
        for words in row["versions"]
    }
    own = {key: found for key, found in rows.items() if key.rpartition("/")[0] == name}
    champion = next((key for key, (aliases, _) in own.items() if "@champion" in aliases), None)
    asked = next((key for key, (aliases, _) in own.items() if version in (*aliases, key.rpartition("/")[2])), None)
    if champion is None or asked is None:
        return None
    figures, theirs = (_figures(key, own[key][1], metric) for key in (asked, champion))
    if figures["digest"] != theirs["digest"]:
        raise UsageError(
            f"models:/{asked} was evaluated on '{figures['data']}' and the champion, models:/{champion}, on other data "
            f"('{theirs['data']}'); evaluate both on the same with 'madpipe evaluate --log'."
        )
    numbers = [int(key.rpartition("/")[2]) for key in (asked, champion)]
    return Comparison(metric, numbers[0], figures[metric], numbers[1], theirs[metric])


def _figures(key: str, row: dict[str, Any], metric: str) -> dict[str, Any]:
    figures: dict[str, Any] | None = row["evaluation"]
    if figures is None or metric not in figures:
        raise UsageError(
            f"models:/{key} has no logged {metric}; 'madpipe evaluate --pipeline models:/{key} --log' logs one."
        )
    return figures
