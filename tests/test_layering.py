"""Upper floors import lower ones, never the reverse; and no module has two names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {"mobo_mpq": 0, "objectives": 1, "workflows": 2}
# handing on public names is the one exception, see DESIGN: `mobo_mpq/__init__.py`, lazily
FILES = [
    path
    for floor in FLOORS
    for path in sorted((ROOT / floor).rglob("*.py"))
    if path != ROOT / "mobo_mpq" / "__init__.py"
]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the full name"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor_of(module: str) -> int:
    parts = module.split(".")
    return FLOORS.get(parts[1], 0) if parts[0] == "mobo_mpq" and len(parts) > 1 else 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    mine = FLOORS[path.relative_to(ROOT).parts[0]]
    for module in imported(path):
        assert module.split(".")[0] not in ("objectives", "workflows"), f"bare import of {module}"
        assert floor_of(module) <= mine, f"{module} is on a higher floor"


def test_the_check_sees_a_violation() -> None:
    assert floor_of("mobo_mpq.workflows.cli") == 2
    assert floor_of("mobo_mpq.objectives") == 1
    assert floor_of("mobo_mpq.space") == 0
