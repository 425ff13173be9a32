"""Finds the pipeline, or the remote queue, that the user names: ``app:pipeline``, or ``app`` if that has only one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..graph.pipeline import Pipeline, plan_of
from ..remote.queue import RemoteQueue
from .factory import Factory, made_by
from .output import UsageError, call_of, line_of

__all__ = ["load", "load_queue"]


def load(target: str, given: Sequence[tuple[str, str]]) -> Pipeline[Any, Any]:
    """Load the pipeline that ``module:pipeline`` names, or the only one of ``module``.

    If it names a function, that makes it, of the values that were ``given``.
    """
    name, _, path = target.partition(":")
    if name.endswith(".py"):
        raise UsageError(f"{name!r} is a file; write the module's name: {_module_in(name)}{path and f':{path}'}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{target!r} is not module:pipeline; write it as for an import, such as app.pipelines:crawl")
    module = _import(name)
    found = _named(target, path, module, lambda: _pipelines_of(name, module)) if path else _only(name, module)
    if isinstance(found, Factory):
        made = made_by(found, target, dict(given))
        if not isinstance(made, Pipeline):
            raise UsageError(f"{target!r} returned a {type(made).__name__}, not a Pipeline; let it return the Pipeline")
        return made
    if not isinstance(found, Pipeline):
        raise UsageError(f"{target!r} is a {type(found).__name__}, not a Pipeline; {_pipelines_of(name, module)}")
    if given:
        raise UsageError(f"--set is for a function that makes a pipeline, and {target!r} is one; leave --set out")
    return found


def load_queue(target: str) -> RemoteQueue[Any]:
    """Load the remote queue that ``module:queue`` names, or the only one of ``module``."""
    name, _, path = target.partition(":")
    if not all(part.isidentifier() for part in f"{name}.{path or 'queue'}".split(".")):  # it may hold a password
        raise UsageError("expected the URL of a queue, such as redis://host/jobs, or module:queue, as for an import")
    module = _import(name)
    queues = {attribute: value for attribute, value in vars(module).items() if isinstance(value, RemoteQueue)}
    names = ", ".join([f"{name}:{attribute}" for attribute in queues])
    has = f"{name!r} has: {names}" if queues else f"{name!r} has no remote_queue"
    if not path and len(queues) != 1:
        raise UsageError(f"which queue of {name!r}? {has}" if queues else has)
    found = _named(target, path, module, lambda: has) if path else next(iter(queues.values()))
    if not isinstance(found, RemoteQueue):
        raise UsageError(f"{target!r} is a {type(found).__name__}, not a remote_queue; {has}")
    return found


def _named(target: str, path: str, module: object, what_there_is: Callable[[], str]) -> Any:
    """What the ``path`` of attributes leads to."""
    found: Any = module
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            raise UsageError(f"no {attribute!r} in {target!r}; {what_there_is()}") from error
        except Exception as error:
            raise UsageError(f"{target!r} cannot be read: {line_of(error)}") from error
    return found


def _only(name: str, module: object) -> Pipeline[Any, Any]:
    """The only pipeline of a module; one without a source counts if there is no other, since it is mostly a part."""
    every = {id(one): one for one in vars(module).values() if isinstance(one, Pipeline)}.values()
    found = [one for one in every if plan_of(one).origins] or list(every)
    if len(found) != 1:
        which = f"which pipeline of {name!r}? " if found else ""
        raise UsageError(f"{which}{_pipelines_of(name, module)}")
    return found[0]


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
            raise UsageError(f"no module {error.name!r} in {here} or on sys.path{_colon(error.name)}") from None
        raise UsageError(f"{name!r} cannot be imported: {line_of(error)}") from error
    except SystemExit as error:
        advice = "put that below: if __name__ == '__main__':"
        raise UsageError(f"{name!r} cannot be imported: it called {call_of(error)}; {advice}") from error
    except Exception as error:
        raise UsageError(f"{name!r} cannot be imported: {line_of(error)}") from error


def _colon(missing: str) -> str:
    """What to write if a dot stands in place of the colon."""
    name, _, attribute = missing.rpartition(".")
    return f"; write {name}:{attribute}" if hasattr(sys.modules.get(name), attribute) else ""


def _pipelines_of(name: str, module: object) -> str:
    """Say which pipelines a module has, and which functions say that they return one."""
    names = [attribute for attribute, value in vars(module).items() if isinstance(value, Pipeline) or _makes(value)]
    if not names:
        return f"{name!r} has no Pipeline: make one with pipeline = source >> consumer"
    return f"{name!r} has: {', '.join(f'{name}:{attribute}' for attribute in names)}"


def _makes(value: object) -> bool:
    return isinstance(value, Factory) and "Pipeline" in str(getattr(value, "__annotations__", {}).get("return"))
