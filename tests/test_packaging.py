"""What users install: one top level, every file, and commands that work away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KINDS = {".py", ".toml", ".yaml", ".typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_top_level_is_the_package_alone(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mobo_mpq"}


def test_every_source_file_is_in_the_wheel(wheel: Path) -> None:
    expected = set()
    for floor in ("mobo_mpq", "objectives", "workflows"):
        for path in (ROOT / floor).rglob("*"):
            if path.suffix in KINDS and "__pycache__" not in path.parts:
                inside = path.relative_to(ROOT).as_posix()
                expected.add(inside if floor == "mobo_mpq" else f"mobo_mpq/{inside}")
    assert len(expected) > 60
    assert expected <= names(wheel)


def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import mobo_mpq as mm, mobo_mpq.objectives, mobo_mpq.workflows.cli as cli\n"
        "assert all(m.__file__.startswith(sys.argv[1]) for m in (mm, mobo_mpq.objectives, cli)), cli.__file__\n"
        "assert mm.load_target('mpic').latency.name == 'latency_s'\n"
        "sys.exit(cli.main(['targets', '--json']))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert '"mpic"' in result.stdout


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for floor in ("mobo_mpq", "objectives", "workflows"):
        for path in (ROOT / floor).rglob("__init__.py"):
            dotted = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
            found.add(dotted if floor == "mobo_mpq" else f"mobo_mpq.{dotted}")
    assert listed == found


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    plain = {word.split(">")[0].split("[")[0].split("<")[0].lower().replace("_", "-") for word in wanted}
    assert plain <= pinned


def test_nothing_tells_of_the_machine_it_was_written_on() -> None:
    result = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        pytest.skip("not a git checkout")
    for name in result.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ""} and path.is_file():
            assert f"{ROOT}/" not in path.read_text(errors="replace"), name
