"""Plug-in sections: checked against the plug-in's own Config, filled with its defaults, joined into one JSON schema."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from madpipe.config.schema import CombinerConfig, MemberConfig, PipelineConfig, TakenDecomposition
from madpipe.config.validation import dotted_key, unknown_key, validated
from madpipe.errors import ConfigError
from madpipe.registry import DETECTORS, EXTRACTORS, METHODS, TASKS, Table

PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


def plugin(
    table: Table, name: str, options: Mapping[str, Any], source: str = "config", prefix: str = "", name_key: str = ""
) -> tuple[type, Any]:
    """The plug-in class registered under `name`, and its `Config` made of `options`.

    For messages: `prefix` is the dotted key of the section, `name_key` the key in it that holds the name ("method").
    """
    chosen = table.load(name, f"{source}: {dotted_key(prefix, name_key)}: ")
    return chosen, validated(chosen.Config, dict(options), source, prefix, [name_key] if name_key else [])


def method_of(config: PipelineConfig, source: str = "config") -> tuple[type, Any]:
    """The decomposition method's class and its Config; a task's own defaults lie under what the config says."""
    method = config.decomposition["method"]
    options = _task_defaults(config, method) | _without(config.decomposition, "method")
    return plugin(METHODS, method, options, source, "decomposition", "method")


def _task_defaults(config: PipelineConfig, method: str) -> dict[str, Any]:
    """The settings of `method` that suit the config's task: `decomposition_defaults` of its family, if it has any."""
    if config.task is None:
        return {}
    family = TASKS.load(config.task["name"], "task.name: ")
    return dict(getattr(family, "decomposition_defaults", {}).get(method, {}))


def taken_of(config: PipelineConfig, source: str = "config") -> TakenDecomposition | None:
    """The decomposition that the config takes from elsewhere; None where it names a method to train."""
    if "from" not in config.decomposition:
        return None
    return validated(TakenDecomposition, config.decomposition, source, "decomposition")


def task_of(config: PipelineConfig, source: str = "config") -> tuple[type, Any] | None:
    """The task's class and its Config; None for a user's own target and data."""
    if config.task is None:
        return None
    return plugin(TASKS, config.task["name"], _without(config.task, "name"), source, "task", "name")


def extractors_of(config: PipelineConfig, source: str = "config") -> dict[str, tuple[type, Any]]:
    """Extractor name -> its class and its Config, for every extractor configured or read by a member."""
    return {
        name: plugin(EXTRACTORS, name, options, source, f"patterns.{name}") for name, options in config.patterns.items()
    }


def check_plugins(config: PipelineConfig, source: str) -> None:
    """Raise for the first plug-in name or plug-in key that nobody knows."""
    task_of(config, source)
    if not taken_of(config, source):
        method_of(config, source)
    for name, member in config.detectors.members.items():
        EXTRACTORS.load(member.patterns, f"{source}: detectors.members.{name}.patterns: ")
        _detector_options(member, source, f"detectors.members.{name}")
    extractors_of(config, source)
    _detector_options(config.detectors.combiner, source, "detectors.combiner")


def resolved(config: PipelineConfig) -> dict[str, Any]:
    """The config as plain values with every default written out; loading it again gives the same."""
    whole = config.model_dump(mode="json", by_alias=True)
    task = task_of(config)
    if task:
        whole["task"] = {"name": whole["task"]["name"], **_dumped(task[1])}
    taken = taken_of(config)
    method = {} if taken else {"method": config.decomposition["method"]}
    whole["decomposition"] = method | _dumped(taken or method_of(config)[1])
    whole["patterns"] = {name: _dumped(options) for name, (_, options) in extractors_of(config).items()}
    for name, member in config.detectors.members.items():
        whole["detectors"]["members"][name]["options"] = _detector_options(member)
    whole["detectors"]["combiner"]["options"] = _detector_options(config.detectors.combiner)
    return whole


def json_schema() -> dict[str, Any]:
    """JSON schema of a config file, with the keys of every listed plug-in; editors read it to complete and to check."""
    schema = PipelineConfig.model_json_schema(by_alias=True)
    definitions, sections = schema["$defs"], schema["properties"]
    methods = [_plugin_schema(METHODS, name, definitions, "method") for name in METHODS]
    tasks = [_plugin_schema(TASKS, name, definitions, "name") for name in TASKS]
    definitions["TakenDecomposition"] = TakenDecomposition.model_json_schema(by_alias=True)
    sections["decomposition"] = {"anyOf": [*methods, {"$ref": "#/$defs/TakenDecomposition"}]}
    sections["task"] = {"anyOf": [*tasks, {"type": "null"}], "default": None}
    extractors = {
        name: {"anyOf": [_plugin_schema(EXTRACTORS, name, definitions), {"type": "null"}]} for name in EXTRACTORS
    }
    sections["patterns"] = {"type": "object", "properties": extractors, "additionalProperties": False}
    for owner in (MemberConfig, CombinerConfig):
        definitions[owner.__name__]["properties"]["detector"]["examples"] = sorted(DETECTORS)
    return schema


def _plugin_schema(table: Table, name: str, definitions: dict[str, Any], name_key: str = "") -> dict[str, str]:
    """Put the schema of one plug-in's Config among the definitions; the reference to it."""
    own = f"{table.kind}.{name}"
    config: type[BaseModel] = table.load(name).Config
    schema = config.model_json_schema(ref_template=f"#/$defs/{own}.{{model}}")
    definitions.update({f"{own}.{inner}": body for inner, body in schema.pop("$defs", {}).items()})
    if table is TASKS:  # a method may be left out (it has a default), a task's name may not
        schema["required"] = [name_key, *schema.get("required", [])]
    if name_key:
        schema["properties"] = {name_key: {"const": name}} | schema.get("properties", {})
    definitions[own] = schema
    return {"$ref": f"#/$defs/{own}"}


def _detector_options(
    member: MemberConfig | CombinerConfig, source: str = "config", prefix: str = "detectors"
) -> dict[str, Any]:
    """The options given, after the estimator's own defaults (its constructor's, as scikit-learn has it)."""
    estimator = DETECTORS.load(member.detector, f"{source}: {prefix}.detector: ")
    defaults = {name: parameter.default for name, parameter in inspect.signature(estimator).parameters.items()}
    for option in member.options:
        if option not in defaults:
            raise unknown_key(source, f"{prefix}.options.{option}", defaults)
    try:
        getattr(estimator(**member.options), "_validate_params", lambda: None)()
    except ValueError as refused:  # scikit-learn's own, which names the parameter and what it may be
        said = " ".join(str(refused).split())
        raise ConfigError(f"{source}: {prefix}.options: {said}") from None
    return {name: value for name, value in defaults.items() if isinstance(value, PLAIN)} | member.options


def _dumped(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json", by_alias=True)


def _without(section: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in section.items() if k != key}
