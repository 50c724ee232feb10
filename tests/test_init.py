from __future__ import annotations

import subprocess
import sys

import pytest

import mobo_mpq as mm


def test_every_public_name_resolves() -> None:
    for name in mm.__all__:
        assert getattr(mm, name) is not None
    assert sorted(mm.__all__) == sorted([*mm._HOME, "__version__"])
    assert set(mm.__all__) <= set(dir(mm))


def test_public_names_are_functions_where_modules_are_near() -> None:
    assert all(callable(getattr(mm, name)) for name in ("optimize", "allocate", "search", "hypervolume", "load_task"))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        mm.frobnicate  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, mobo_mpq; print([m for m in ('torch', 'numpy', 'ray', 'mlflow', 'botorch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_module_has_two_names() -> None:
    code = (
        "import sys, collections, mobo_mpq.workflows.search, mobo_mpq.objectives.tasks;"
        "files = collections.Counter(m.__file__ for m in list(sys.modules.values())"
        " if getattr(m, '__name__', '').split('.')[0] in ('mobo_mpq', 'objectives', 'workflows'));"
        "print([f for f, n in files.items() if n > 1])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
