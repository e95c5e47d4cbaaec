"""From a config or a name to a task, built once and then read from the cache."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from madpipe.errors import ConfigError, nearest, unknown
from madpipe.registry import TASKS
from madpipe.tasks.cache import cache_folder, read_task, write_task
from madpipe.tasks.scored import scored_on_agree
from madpipe.tasks.task import Task, TaskFamily


def build_task(config: Mapping[str, Any]) -> Task:
    """`build_task({"name": "digits", "attack": "conj", "net": "cnn"})`; keys left out have the family's defaults.

    The first call trains the target (seconds); later ones read it from $MADPIPE_CACHE or ~/.cache/madpipe. Raises
    UnknownNameError for an unknown name, ConfigError for an unknown or wrong key.
    """
    family, values = validated(config)
    if getattr(values, "scored", "changed") == "agree":
        return scored_on_agree(build_task({**config, "scored": "changed"}), family.label(values))
    # `scored` is left out of the key: all that is cached scores changed outputs.
    folder = cache_folder(family.label(values), {"name": family.name, **values.model_dump(exclude={"scored"})})
    task = read_task(folder)
    if task is None:
        task = family.build(values)
        write_task(task, folder)
    return task


def task_names() -> dict[str, str]:
    """The listed tasks at seed 0, each with one line about it."""
    names = {}
    for family_name in TASKS:
        family: TaskFamily = TASKS.load(family_name)
        for variant in family.variants():
            config = family.Config.model_validate(variant)
            names[family.label(config)] = family.describe(config)
    return names


def task_name(config: Mapping[str, Any]) -> str:
    """The inverse of parse_task_name."""
    family, values = validated(config)
    return family.label(values)


def parse_task_name(name: str) -> dict[str, Any]:
    """A task's config from its name; UnknownNameError, with the nearest listed name, for any other.

    >>> parse_task_name("digits-conj-cnn-0")
    {'name': 'digits', 'attack': 'conj', 'net': 'cnn', 'trusted': 350, 'scored': 'changed', 'seed': 0}
    """
    first, *words = name.split("-")
    if first in TASKS:
        family: TaskFamily = TASKS.load(first)
        values = family.parse(words)
        if values is not None:
            try:
                return {"name": first, **family.Config.model_validate(values).model_dump()}
            except ValidationError:
                pass  # the words are in the right places and one of them is wrong: the list below shows which
    raise unknown("task", name, task_names())


def validated(config: Mapping[str, Any]) -> tuple[TaskFamily, BaseModel]:
    """(the family that `name` asks for, its config)."""
    if "name" not in config:
        raise ConfigError(f"task.name is missing. Known: {', '.join(TASKS)}.")
    family: TaskFamily = TASKS.load(config["name"], where="task.name: ")
    try:
        return family, family.Config.model_validate({key: value for key, value in config.items() if key != "name"})
    except ValidationError as error:
        raise ConfigError(in_one_line(error, family.Config)) from error


def in_one_line(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first fault: the key, what is wrong with it, and the nearest known key or value."""
    fault = error.errors()[0]
    key, given = str(fault["loc"][0]), fault["input"]
    if fault["type"] == "extra_forbidden":
        return f"task.{key}: no such key.{nearest(key, ['name', *schema.model_fields])}"
    if fault["type"] == "literal_error":
        return f"task.{key}: '{given}' is unknown.{nearest(str(given), get_args(schema.model_fields[key].annotation))}"
    return f"task.{key}: {fault['msg']}, got {given!r}."
