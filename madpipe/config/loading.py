"""A config file and its `--set` overrides -> PipelineConfig; strict YAML: no tags, no duplicate keys, no surprises."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from madpipe.config.resolving import check_plugins
from madpipe.config.schema import PipelineConfig
from madpipe.config.validation import validated
from madpipe.errors import ConfigError, MissingFileError

LARGEST_FILE = 2**20  # bytes; the longest config in configs/ has 4 KB
DEEPEST = 50  # levels; PyYAML calls itself for each
BEING_COUNTED = -1  # in place of a count
MOST_VALUES = 100_000  # with anchors written out: a file of 300 bytes can stand for 10^9


class StrictLoader(yaml.SafeLoader):
    """YAML's safe subset, numbers as in YAML 1.2: `1e-4` is a float, `00:12:00:00` and `2026-11-01` are strings."""

    _depth = 0

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            self._count(node, {})
        return node

    def _count(self, node: Any, counted: dict[int, int]) -> int:
        """How many values `node` stands for; MarkedYAMLError above MOST_VALUES, and for an anchor inside itself."""
        if counted.get(id(node)) == BEING_COUNTED:
            raise yaml.MarkedYAMLError(problem="an anchor holds itself", problem_mark=node.start_mark)
        if id(node) not in counted:
            counted[id(node)] = BEING_COUNTED
            held = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for pair in held for part in (pair if isinstance(pair, tuple) else (pair,))]
            counted[id(node)] = 1 + sum(self._count(part, counted) for part in parts)
            if counted[id(node)] > MOST_VALUES:
                problem = f"more than {MOST_VALUES:,} values once its anchors are written out"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return counted[id(node)]

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem=f"tags are refused ({event.tag})", problem_mark=event.start_mark)
        if self._depth == DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels deep", problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node: Any = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def _with_plain_numbers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    numbers_and_dates = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"}
    inherited = yaml.SafeLoader.yaml_implicit_resolvers.items()
    return {first: [rule for rule in rules if rule[0] not in numbers_and_dates] for first, rules in inherited}


StrictLoader.yaml_implicit_resolvers = _with_plain_numbers()
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][\d_]*)$"), list("-+0123456789"))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """The config in `path` with `overrides` ("decomposition.steps=200", values in YAML) laid over it.

    Plug-in sections are checked too. Paths in it stay relative to the file's folder: pass that folder on as `base`.
    MissingFileError, ConfigError, and UnknownNameError for a plug-in that is in no table; each is one line that opens
    with the file's name.
    """
    path = Path(path)
    document = read_document(path)
    for override in overrides:
        _lay_over(document, override)
    sections = PipelineConfig.model_fields.keys() - {"seed"}
    present = {key: value for key, value in document.items() if value is not None or key not in sections}
    config = validated(PipelineConfig, present, str(path))
    check_plugins(config, str(path))
    return config


def read_document(path: Path, needed: str = "'target' and 'data', or 'task'") -> dict[str, Any]:
    """The mapping in a YAML file, of plain JSON values, with anchors written out; `needed`: its keys, for an error."""
    if not path.is_file():
        raise MissingFileError(f"no config file '{path}'. Give the path of a .yaml file.")
    if path.stat().st_size > LARGEST_FILE:
        raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; a config has at most {LARGEST_FILE:,}.")
    try:
        document = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8.") from None
    if document is None:
        raise ConfigError(f"{path}: the file is empty. It needs {needed}.")
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a mapping of sections (key: value) is needed, not a {type(document).__name__}.")
    return document


def parse_yaml(text: str, source: str) -> Any:
    """`text` as plain JSON values; ConfigError with line and column when it is not the YAML we read."""
    try:
        value = yaml.load(text, StrictLoader)
        return json.loads(json.dumps(value))
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = ", ".join(part for part in (failure.context, failure.problem) if part)
        raise ConfigError(f"{source}: {said}{place}.") from None
    except yaml.YAMLError as failure:
        raise ConfigError(f"{source}: not YAML: {' '.join(str(failure).split())}.") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as failure:
        raise ConfigError(f"{source}: holds what a config cannot: {' '.join(str(failure).split())}.") from None


def _lay_over(document: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    *sections, key = parts = dotted.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set '{override}': write it as key.sub=value.")
    here = document
    for depth, section in enumerate(sections, start=1):
        if here.get(section) is None:
            here[section] = {}
        here = here[section]
        if not isinstance(here, dict):
            raise ConfigError(
                f"--set {dotted}: '{'.'.join(sections[:depth])}' holds {here!r}, not a section with keys."
            )
    here[key] = parse_yaml(text, f"--set {dotted}")
