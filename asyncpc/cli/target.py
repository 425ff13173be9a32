"""Finds the pipeline that the user names: ``app:pipeline``."""

from __future__ import annotations

import importlib
import os
import sys
from inspect import isfunction
from pathlib import Path
from typing import Any

from ..graph.pipeline import Pipeline
from .output import UsageError, call_of, line_of

__all__ = ["load"]


def load(target: str) -> Pipeline[Any, Any]:
    """Load the pipeline that ``module:pipeline`` names."""
    name, _, path = target.partition(":")
    if name.endswith(".py"):
        raise UsageError(f"{name!r} is a file; write the module's name: {_module_in(name)}:{path or '…'}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{target!r} is not module:pipeline; write it as for an import, such as app.pipelines:crawl")
    module = _import(name)
    found: Any = module
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            missing = f"no {attribute!r} in {target!r}" if path else f"which pipeline of {name!r}?"
            raise UsageError(f"{missing}; {_pipelines_of(name, module)}") from error
        except Exception as error:
            raise UsageError(f"{target!r} cannot be read: {line_of(error)}") from error
    if not isinstance(found, Pipeline):
        cure = (
            f"if it makes one, add to the module: pipeline = {path}()"
            if isfunction(found)
            else _pipelines_of(name, module)
        )
        raise UsageError(f"{target!r} is a {type(found).__name__}, not a Pipeline; {cure}")
    return found


def _module_in(file: str) -> str:
    """The name that the module in a file has for an import from the current directory."""
    path = Path(os.path.abspath(file)).with_suffix("")  # not resolved: what is typed is what is known
    here = Path.cwd()
    return ".".join(path.relative_to(here).parts if path.is_relative_to(here) else path.parts[-1:])


def _import(name: str) -> Any:
    """Import the module; the current directory is searched first."""
    here = str(Path.cwd())
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"no module {error.name!r} in {here} or on sys.path") from None
        raise UsageError(f"{name!r} cannot be imported: {line_of(error)}") from error
    except SystemExit as error:
        cure = "put that below: if __name__ == '__main__':"
        raise UsageError(f"{name!r} cannot be imported: it called {call_of(error)}; {cure}") from error
    except Exception as error:
        raise UsageError(f"{name!r} cannot be imported: {line_of(error)}") from error


def _pipelines_of(name: str, module: object) -> str:
    """Say which pipelines a module has."""
    names = [attribute for attribute, value in vars(module).items() if isinstance(value, Pipeline)]
    if not names:
        return f"{name!r} has no Pipeline: make one with pipeline = source >> consumer"
    return f"{name!r} has: {', '.join(f'{name}:{attribute}' for attribute in names)}"
