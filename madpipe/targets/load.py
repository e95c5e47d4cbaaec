"""Loads a user's own model: a factory named in the config, and weights that are never unpickled."""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from madpipe.errors import DamagedFileError, FactoryError, MissingFileError, WeightsError, nearest
from madpipe.targets.pickled_weights import refuse_hostile

OutputKind = Literal["categorical", "bernoulli", "regression"]


@dataclass(frozen=True, eq=False)
class Target:
    """The frozen network under question.

    module: in eval mode, no parameter requires a gradient. output: what its output means (softmax logits, independent
    logits, real values). factory, kwargs: what builds it again; source: the factory's file, None for a package.
    weights_digest: sha256 of names, shapes, types and bytes of the state dict.
    """

    module: nn.Module
    output: OutputKind
    factory: str
    kwargs: dict[str, Any]
    source: Path | None
    weights_digest: str


def load_target(
    factory: str, kwargs: Mapping[str, Any], weights: Path | None, output: OutputKind, base: Path
) -> Target:
    """Builds `factory(**kwargs)` and loads `weights` into it.

    factory: "my_model.py:build", a path relative to `base`, or "package.module:build". A factory file may import its
    siblings while it is being loaded and called; afterwards its folder is off `sys.path` again, so an import inside
    `forward` cannot rely on it. weights: .safetensors, or any file `torch.load(weights_only=True)` accepts, relative to
    `base`; None keeps the factory's own initial weights.

    Raises FactoryError, MissingFileError, WeightsError, DamagedFileError.
    """
    source, module = build_module(factory, kwargs, base)
    if weights is not None:
        load_weights(module, base / weights)
    module.eval().requires_grad_(False)
    return Target(module, output, factory, dict(kwargs), source, weights_digest(module.state_dict()))


def build_module(factory: str, kwargs: Mapping[str, Any], base: Path) -> tuple[Path | None, nn.Module]:
    """(the factory's file or None for a package, what the factory returns)."""
    place, separator, attribute = factory.rpartition(":")
    if not separator or not place or not attribute:
        raise FactoryError(f"target.factory: '{factory}' is not 'file.py:function' or 'package.module:function'.")
    if not place.endswith(".py"):
        return None, call_factory(import_package(place), attribute, factory, kwargs)
    source = (base / place).resolve()
    with siblings_importable(source.parent):
        return source, call_factory(import_file(source, place), attribute, factory, kwargs)


@contextmanager
def siblings_importable(folder: Path) -> Iterator[None]:
    """`folder` first on `sys.path` inside the block; afterwards the path is as before and the siblings are forgotten.

    A module first imported in the block from `folder` leaves `sys.modules`, so that another model's sibling of the same
    name is its own. The user's module keeps what it imported.
    """
    path, loaded = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.partition(".")[0] not in loaded]:
            top = name.partition(".")[0]
            if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
                del sys.modules[name]


class SourceAlone(SourceFileLoader):
    """Compiles what stands in the file: bytecode beside it is neither read, since no digest covers it, nor written."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def import_file(source: Path, place: str) -> ModuleType:
    """The module in `source`, listed in `sys.modules` under a private name (dataclasses look their module up there)."""
    if not source.is_file():
        beside = [path.name for path in source.parent.glob("*.py")]
        raise FactoryError(f"target.factory: no file {place} in {source.parent}.{nearest(source.name, beside)}")
    name = f"_madpipe_target_{hashlib.sha256(str(source).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, source, loader=SourceAlone(name, str(source)))
    assert spec is not None, source
    assert spec.loader is not None, source
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise FactoryError(f"target.factory: importing {place} failed: {in_one_line(error)}") from error
    return module


def import_package(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise FactoryError(f"target.factory: importing {place} failed: {in_one_line(error)}") from error


def call_factory(home: ModuleType, attribute: str, factory: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """The nn.Module that `home.attribute(**kwargs)` returns."""
    function = getattr(home, attribute, None)
    if not callable(function):
        known = [name for name, value in vars(home).items() if getattr(value, "__module__", None) == home.__name__]
        place = factory.rpartition(":")[0]
        raise FactoryError(f"target.factory: {place} has no function '{attribute}'.{nearest(attribute, known)}")
    try:
        module = function(**kwargs)
    except (Exception, SystemExit) as error:
        raise FactoryError(f"target.factory: {factory}({', '.join(kwargs)}) raised {in_one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise FactoryError(f"target.factory: {factory} returned a {type(module).__name__}, not a torch.nn.Module.")
    return module


def in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def load_weights(module: nn.Module, path: Path) -> None:
    """Copies the state dict in `path` into `module`; every key and shape must fit and every value be finite."""
    state = read_state(path)
    check_keys(state, module.state_dict(), path)
    check_values(state, module.state_dict(), path)
    module.load_state_dict(state, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, or in a file torch.load accepts with weights_only; nothing is unpickled."""
    if not path.is_file():
        raise MissingFileError(f"target.weights: no file {path}.")
    if not os.access(path, os.R_OK):
        raise MissingFileError(
            f"target.weights: this user may not read {path}; safetensors writes files for their owner alone."
        )
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            refuse_hostile(path)
            state = torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        # torch's own message for a pickle advises weights_only=False, which would run what is in the file.
        raise DamagedFileError(
            f"target.weights: {path} cannot be read as tensors alone: truncated, altered, or a pickle of something "
            f"else ({type(error).__name__}). Save module.state_dict() as safetensors."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        held = f"a dict with the keys {', '.join(map(str, state))[:80]}" if isinstance(state, dict) else type(state)
        raise WeightsError(f"target.weights: {path} holds {held}, not a state dict of tensors.")
    return state


def check_keys(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """WeightsError naming the first missing or unexpected key. A key tied to one that is there is not missing."""
    present = {wanted[key].data_ptr() for key in wanted if key in state}
    missing = [key for key, value in wanted.items() if key not in state and value.data_ptr() not in present]
    unexpected = [key for key in state if key not in wanted]
    for fault, keys, known in (("missing", missing, state), ("not in the model", unexpected, wanted)):
        if keys:
            count = f" ({len(keys)} such keys)" if len(keys) > 1 else ""
            raise WeightsError(f"target.weights: {path}: '{keys[0]}' is {fault}{count}.{nearest(keys[0], known)}")


def check_values(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """WeightsError naming the first tensor whose shape is not the model's, or that is not finite."""
    misshaped = [key for key in state if state[key].shape != wanted[key].shape]
    if misshaped:
        first = misshaped[0]
        raise WeightsError(
            f"target.weights: {path}: '{first}' is {list(state[first].shape)}, the model's is "
            f"{list(wanted[first].shape)}; {len(misshaped)} of {len(state)} tensors have another shape."
        )
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f"target.weights: {path}: '{key}' holds NaN or infinite values.")


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over every tensor's name, type, shape and bytes, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
