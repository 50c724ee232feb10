"""The documentation tells the truth: its code runs, its commands and defaults exist, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

import mobo_mpq as mm
from mobo_mpq.config import StudyConfig
from mobo_mpq.objectives.hardware import target_names
from mobo_mpq.objectives.tasks import task_names
from mobo_mpq.strategies.amp import AmpOptions
from mobo_mpq.strategies.haq import HaqOptions
from mobo_mpq.strategies.ompq import OmpqOptions
from mobo_mpq.strategies.registry import check_strategy, strategy_names
from mobo_mpq.training.recipes import default_recipe, recipe_names
from mobo_mpq.workflows.cli import app, main
from mobo_mpq.workflows.exporting import FORMATS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"(?:<!-- (runnable[: \w]*) -->\n)?^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = ["--trials", "4", "--recipe", "ptq", "--strategy", "sobol", "--runner", "serial"]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    marker: str
    info: str
    code: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, m.start()) + 1, m[1] or "", m[2], m[3])  # line of the marker or the fence
        for m in FENCE.finditer(text)
    ]


def section_of(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of its level."""
    level = heading.split(" ", 1)[0]
    text = (DOCS / page).read_text()
    assert heading in text, f"{page} has no '{heading}'"
    return re.split(rf"^{level} ", text.split(heading, 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> dict[str, str]:
    """First and second cell of every row whose first cell is code."""
    return {m[1]: m[2].strip("` ") for m in re.finditer(r"^\| `([\w-]+)` \|([^|]*)\|", text, re.MULTILINE)}


def options() -> dict[str, set[str]]:
    """Verb -> its flags, and those of its own verbs."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        verb: {
            flag
            for one in (command, *getattr(command, "commands", {}).values())
            for p in one.params
            for flag in (*p.opts, *p.secondary_opts)
            if flag.startswith("--")
        }
        for verb, command in commands.items()
    }


OPTIONS = options()

# --- code runs --------------------------------------------------------------------------------------------------------


def tutorial_commands() -> Iterator[list[str]]:
    """Commands of the tutorial, made small."""
    for block in blocks(DOCS / "tutorial.md"):
        if block.info == "bash":
            for line in block.code.splitlines():
                name, *arguments = shlex.split(line, comments=True)
                assert name == "mobo-mpq", f"{block.where} runs {name}, which is not tried"
                small = {"search": SMALL, "resume": ["--trials", "5", "--runner", "serial"]}.get(arguments[0], [])
                if arguments[0] != "ui":  # serves until ctrl-C
                    yield arguments + small


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tutorial was followed."""
    folder = tmp_path_factory.mktemp("tutorial")
    (task,) = (block for block in blocks(DOCS / "tutorial.md") if 'title="my_task.py"' in block.info)
    (folder / "my_task.py").write_text(task.code)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MOBO_MPQ_HOME", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for arguments in tutorial_commands():
            assert main(arguments) == 0, f"mobo-mpq {shlex.join(arguments)}"
    return folder


def test_the_tutorial_ends_in_a_file(tutorial: Path) -> None:
    assert (tutorial / "shipped" / "model.onnx").exists()
    assert (tutorial / "shipped" / "policy.json").exists()
    assert (tutorial / "front.png").exists()


def test_the_tutorials_task_has_thirty_lines_or_so() -> None:
    (task,) = (block for block in blocks(DOCS / "tutorial.md") if 'title="my_task.py"' in block.info)
    assert len(task.code.splitlines()) <= 45


RUNNABLE = [block for page in PAGES for block in blocks(page) if block.marker]


@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: block.where)
def test_code_runs(
    block: Block, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert block.info == "python"
    in_study = block.marker == "runnable: study" or block.page.name == "tutorial.md"
    assert in_study or block.marker == "runnable"
    monkeypatch.chdir(request.getfixturevalue("tutorial") if in_study else tmp_path)
    monkeypatch.delenv("MOBO_MPQ_HOME", raising=False)
    exec(compile(block.code, block.where, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_is_python(page: Path) -> None:
    for block in blocks(page):
        if block.info.startswith("python"):
            assert compile(block.code, block.where, "exec").co_filename == block.where


def test_documents_of_the_pages_are_taken(tmp_path: Path) -> None:
    """The example target loads, and the example study files parse."""
    (target,) = (b for b in blocks(DOCS / "how-to" / "targets.md") if b.info.startswith("toml"))
    (tmp_path / "my-board.toml").write_text(target.code)
    assert mm.load_target(tmp_path / "my-board.toml").name == "my-board"
    for page in ("reference/study-file.md", "methods/lsq-qat.md", "methods/amp.md"):
        (study,) = (b for b in blocks(DOCS / page) if b.info.startswith("toml"))
        (tmp_path / "study.toml").write_text(study.code)
        config = StudyConfig.parse(StudyConfig.read(tmp_path / "study.toml"))
        assert set(config.recipe_options) <= set(default_recipe(config.recipe).options)
        check_strategy(config.strategy, config.strategy_options)


# --- commands exist ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    for verb, rest in re.findall(r"\bmobo-mpq ([a-z][\w-]*)([^`\n#]*)", text):
        assert verb in OPTIONS, f"mobo-mpq {verb}"
        assert flags(rest) <= OPTIONS[verb] | {"--help"}, f"mobo-mpq {verb}{rest}"
    for arguments in re.findall(r'\bARGS="([^"]*)"', text):
        if not text.count(f'PYTEST_ARGS="{arguments}"') and not text.count(f'PIP_ARGS="{arguments}"'):
            assert flags(arguments) <= OPTIONS["search"], arguments
    for arguments in re.findall(r"search\.py -- ([^`\n]*)", text):
        assert flags(arguments) <= OPTIONS["search"], arguments


def flags(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def test_every_verb_and_flag_is_documented() -> None:
    text = (DOCS / "reference" / "cli.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    described: dict[str, set[str]] = {}
    for heading in headings:
        for verb in re.findall(r"`mobo-mpq (\w+)`", heading):
            described[verb] = flags(section_of("reference/cli.md", heading))
    assert {verb: found & OPTIONS[verb] for verb, found in described.items()} == OPTIONS


def test_defaults_of_flags() -> None:
    rows = re.findall(r"^\| `--([a-z-]+)` \| ([^|]+) \|", section_of("reference/cli.md", "## `mobo-mpq search`"), re.M)
    config = StudyConfig()
    for flag, shown in rows:
        value = getattr(config, flag.replace("-", "_"), None)
        if value and flag != "name":
            expected = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            assert shown.strip().strip("`") == expected, flag


def test_fields_and_defaults_of_the_study_file() -> None:
    rows = table((DOCS / "reference" / "study-file.md").read_text())
    shown = StudyConfig().model_dump(mode="json", by_alias=True)
    assert set(rows) == set(shown)
    for field, value in shown.items():
        expected = "" if value is None else json.dumps(value)  # which TOML writes alike
        assert rows[field] == expected, f"{field}: {rows[field]} instead of {expected}"


def test_options_and_defaults_of_qat() -> None:
    rows, recipe = table(section_of("methods/lsq-qat.md", "## Options")), default_recipe("qat")
    assert {name: json.loads(value) for name, value in rows.items()} == {"epochs": recipe.epochs, **recipe.options}


def test_options_and_defaults_of_ptq() -> None:
    rows = table(section_of("methods/ptq.md", "## Options"))
    assert {name: json.loads(value) for name, value in rows.items()} == default_recipe("ptq").options


def test_options_and_defaults_of_multipoint() -> None:
    rows = table(section_of("methods/multipoint.md", "## Options"))
    assert {name: json.loads(value) for name, value in rows.items()} == default_recipe("multipoint").options


def test_options_and_defaults_of_amp() -> None:
    rows = table(section_of("methods/amp.md", "## Options"))
    assert {name: json.loads(value) if value else None for name, value in rows.items()} == asdict(AmpOptions())


def test_options_and_defaults_of_haq() -> None:
    rows = table(section_of("methods/haq.md", "## Options"))
    assert {name: json.loads(value) if value else None for name, value in rows.items()} == asdict(HaqOptions())


def test_options_and_defaults_of_ompq() -> None:
    rows = table(section_of("methods/ompq.md", "## Options"))
    assert {name: json.loads(value) for name, value in rows.items()} == asdict(OmpqOptions())


@pytest.mark.parametrize("names", [task_names(), target_names(), strategy_names(), recipe_names(), FORMATS], ids=str)
def test_the_readme_lists_what_is_built_in(names: tuple[str, ...]) -> None:
    listed = (ROOT / "README.md").read_text().split("## What is in it")[1].split("\n## ")[0]
    assert [name for name in names if f"`{name}`" not in listed] == []


def test_every_public_name_is_documented() -> None:
    text = (DOCS / "reference" / "python.md").read_text()
    assert [n for n in mm.__all__ if n != "__version__" and not re.search(rf"\bmm\.{n}\b", text)] == []
    assert [n for n in re.findall(r"`mm\.(\w+)", text) if n not in mm.__all__] == []


# --- links lead somewhere ---------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    missing = [str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md") if f": {p.relative_to(DOCS)}\n" not in navigation]
    assert missing == []


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the extra 'docs'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "tutorial" / "index.html").exists()
