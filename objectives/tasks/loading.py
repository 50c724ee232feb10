"""From a task's name or address to the task."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mobo_mpq.errors import TaskError, UnknownName
from mobo_mpq.objectives.tasks.base import LoadedTask, one_line

_BUILT_IN = {
    "digits": "mobo_mpq.objectives.tasks.digits:Digits",
    "digits-resnet20": "mobo_mpq.objectives.tasks.digits_resnet20:DigitsResNet20",
    "text": "mobo_mpq.objectives.tasks.text:Text",
}


def task_names() -> tuple[str, ...]:
    """Names of the built-in tasks."""
    return tuple(sorted(_BUILT_IN))


def load_task(address: str) -> LoadedTask:
    """Find a task, make it and check it.

    Args:
        address: a built-in name, ``path/to/file.py:name`` or ``package.module:name``, where ``name`` is the task, or
            a class or function without arguments that makes it.

    Raises:
        UnknownName: when it is no built-in name and no address.
        TaskError: when the address leads nowhere, its code raises, or what it gives is not a task.
    """
    place, colon, name = _BUILT_IN.get(address, address).rpartition(":")
    if not (colon and place and name):
        raise UnknownName(
            "task", address, task_names(), "A task of your own is 'path/to/file.py:name' or 'package.module:name'."
        )
    if place.endswith(".py"):
        path = Path(place).expanduser().resolve()
        module, stem, full = _import_file(path, address), path.stem, f"{path}:{name}"
    else:
        module, stem, full = _import_module(place, address), place.rpartition(".")[2], address
    shown = address if address in _BUILT_IN else _short_name(stem, name)
    return LoadedTask.of(_make(module, name, shown, address), full, shown)


def _short_name(stem: str, name: str) -> str:
    """The file's name, followed by the object's unless that adds nothing."""
    return stem if name.lower() in ("task", stem.lower().replace("_", "")) else f"{stem}-{name}"


def _import_file(path: Path, address: str) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"task '{address}': no file {path}; expected a Python file: check the path")
    # A name that no other module has; modules beside the file are importable, as beside a script.
    unique = f"mobo_mpq_task_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise TaskError(f"task '{address}': {path} is no Python file; expected one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[unique]
        raise TaskError(
            f"task '{address}': importing {path} raised {one_line(error)}; run the file by itself"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _import_module(place: str, address: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        hint = "install the package, or give the path of the file: 'path/to/file.py:name'"
        raise TaskError(f"task '{address}': importing module {place} raised {one_line(error)}; {hint}") from error


def _make(module: ModuleType, name: str, shown: str, address: str) -> Any:
    if not hasattr(module, name):
        names = [key for key, value in vars(module).items() if not key.startswith("_") and _defined_in(module, value)]
        raise TaskError(
            f"task '{address}': {module.__file__ or module.__name__} has no '{name}'; "
            f"it defines {', '.join(names) or 'nothing'}"
        )
    found = getattr(module, name)
    if isinstance(found, type) or (callable(found) and not hasattr(found, "metric")):
        try:
            return found()
        except Exception as error:
            raise TaskError(
                f"task '{shown}': calling {name}() raised {one_line(error)}; expected a class or function without "
                "arguments that makes the task"
            ) from error
    return found


def _defined_in(module: ModuleType, value: Any) -> bool:
    return getattr(value, "__module__", module.__name__) == module.__name__ and not isinstance(value, ModuleType)
