"""Stand-ins for the workflows behind the command line."""

import sys
from types import ModuleType

import pytest


@pytest.fixture
def stand_in(monkeypatch):
    """Put `function` in the place of a verb's workflow; the calls it gets are in the list that comes back."""

    def install(verb: str, function, name: str | None = None) -> list[tuple[tuple, dict]]:
        calls = []

        def noting(*arguments, **options):
            calls.append((arguments, options))
            return function(*arguments, **options)

        module = sys.modules.get(f"madpipe.workflows.{verb}") or ModuleType(f"madpipe.workflows.{verb}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(module, name or verb, noting, raising=False)
        return calls

    return install
