"""Pydantic's findings as one line that names the dotted key and, for an unknown key, the nearest known one."""

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from madpipe.errors import ConfigError, nearest

Model = TypeVar("Model", bound=BaseModel)
UNION_ORIGINS = (typing.Union, types.UnionType, typing.Annotated)


def validated(model: type[Model], values: Any, source: str, prefix: str = "", extra_keys: Iterable[str] = ()) -> Model:
    """`model` made of `values`, or a ConfigError `source: prefix.key: what is wrong`.

    `extra_keys` are known keys that are not the model's own (the `method` of a decomposition).
    """
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        problems = _of_the_nearest_branch(values, failure.errors(include_url=False))
    # An unknown key is often the cause of the others (a misspelt one is missing under its right name).
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    more = f" ({len(problems) - 1} more after this one.)" if len(problems) > 1 else ""
    line = _line(model, values, problems[0], prefix, extra_keys)
    raise ConfigError(f"{source}: {line}{more}")


def unknown_key(source: str, dotted: str, known: Iterable[str]) -> ConfigError:
    """The error for a key that nobody knows."""
    return ConfigError(f"{source}: {_unknown_key_line(dotted, known)}")


def dotted_key(*parts: object) -> str:
    """`dotted_key("a", "", 0)` is "a.0"."""
    return ".".join(str(part) for part in parts if part != "")


def _unknown_key_line(dotted: str, known: Iterable[str]) -> str:
    return f"{dotted}: no such key.{nearest(dotted.rpartition('.')[2], known)}"


def _of_the_nearest_branch(values: Any, problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Where a value may be one of several models, each complains: keep what the one says that complains least."""
    branches: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for problem in problems:
        keys = _keys_of_the_file(values, problem["loc"], keep_last=problem["type"] == "missing")
        branches.setdefault(tuple(part for part in problem["loc"] if part not in keys), []).append(problem)
    plain = branches.pop((), [])
    return plain + min(branches.values(), key=len, default=[])


def _line(model: type[BaseModel], values: Any, problem: ErrorDetails, prefix: str, extra_keys: Iterable[str]) -> str:
    kind, context, given = problem["type"], problem.get("ctx", {}), problem["input"]
    dotted = dotted_key(prefix, *_keys_of_the_file(values, problem["loc"], keep_last=kind == "missing"))
    if kind == "extra_forbidden":
        own_extras = extra_keys if len(problem["loc"]) == 1 else ()
        return _unknown_key_line(dotted, [*_known_keys(model, problem["loc"][:-1]), *own_extras])
    if kind == "missing":
        return f"{dotted}: this key is needed."
    if kind == "value_error":
        said = _one_line(str(context["error"]))
        return f"{dotted}: {said}" if dotted else said
    if kind in ("model_type", "dict_type"):
        known = sorted([*_known_keys(model, problem["loc"]), *extra_keys])
        keys = f" with keys among {', '.join(known)}" if known else ""
        return f"{dotted or 'the file'}: a section{keys} is needed here, not {_shown(given)}."
    said = _one_line(problem["msg"]).removeprefix("Input ")
    return f"{dotted}: {said}, and is {_shown(given)}."


def _keys_of_the_file(values: Any, location: Sequence[int | str], keep_last: bool) -> list[int | str]:
    """Pydantic's location without what is not in the file: union tags, `[key]` markers, function names."""
    kept: list[int | str] = []
    for part in location:
        inside = isinstance(values, Mapping) and part in values
        within = isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
        if inside or within:
            kept.append(part)
            values = values[part]
    if keep_last and location:
        kept.append(location[-1])
    return kept


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    annotation: Any = model
    for part in location:
        annotation = _step_into(annotation, part)
    models = [choice for choice in _choices(annotation) if _is_model(choice)]
    return [field.alias or name for choice in models for name, field in choice.model_fields.items()]


def _step_into(annotation: Any, part: int | str) -> Any:
    for choice in _choices(annotation):
        if _is_model(choice):
            fields = {field.alias or name: field.annotation for name, field in choice.model_fields.items()}
            if part in fields:
                return fields[part]
            if choice.__name__ == part:
                return choice
        elif typing.get_origin(choice) is dict:
            return typing.get_args(choice)[1]
        elif typing.get_origin(choice) in (list, tuple):
            return typing.get_args(choice)[0]
    return annotation


def _choices(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) not in UNION_ORIGINS:
        return [annotation]
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        parts = parts[:1]
    return [choice for part in parts for choice in _choices(part)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _shown(value: Any) -> str:
    text = _one_line(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
