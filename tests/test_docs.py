"""The documents name what exists: files, modules, functions, settings, commands and options."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

import update_public_surface
from difftalker.cli import app
from difftalker.config import debug

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "difftalker"
README_LINES = 110

PAGES = sorted({ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")})
# Dated pages name what there was on their date.
PRESENT = [path for path in PAGES if path.name != "CHANGELOG.md" and path.parent.name != "lab-book"]
ROOTS = ("docs", "examples", "scripts", "src", "tests")
FOLDERS = tuple(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
DOTTED = re.compile(
    rf"(?<![\w./-])(?:difftalker|model|{'|'.join(FOLDERS)})(?:\.\w+)+(?<!\.py)"
    r"(?<!\.json)(?<!\.safetensors)(?<!\.wav)(?![\w./])"
)
NAMED_IN_FILE = re.compile(r"((?:`\w[\w.]*`(?:, | and )?)+) in\s+`([\w/]+\.py)`")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def headings(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    kept = (re.sub(r"[^\w\s-]", "", one).strip() for one in re.findall(r"^#+ (.+)$", text, re.M))
    return {one.lower().replace(" ", "-") for one in kept}


def code_words(page: Path) -> list[str]:
    """What stands between backticks in the prose of a page."""
    return CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each shell command of a page, in code blocks and between backticks."""
    text = page.read_text(encoding="utf-8")
    blocks = [body for kind, body in FENCE.findall(text) if kind in ("", "sh")]
    lines = [line for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    for line in [*lines, *code_words(page)]:
        if line.startswith(("difftalker ", "python scripts/")):
            yield shlex.split(line, comments=True)


@cache
def options_of_commands() -> dict[str, frozenset[str]]:
    """Each command of `difftalker` and all of its options."""
    found = {
        name: frozenset(
            option
            for argument in command.assemble_argument_collection()
            for option in (*argument.names, *argument.negatives)
        )
        for name, command in update_public_surface.commands(app)
    }
    return {name: options | {"--help", "--version"} for name, options in found.items()}


@cache
def options_of_scripts() -> dict[str, frozenset[str]]:
    """Each file of scripts/ and what looks like an option in it."""
    option = re.compile(r'"(--?[a-z][\w-]*)"')
    return {
        f"scripts/{path.name}": frozenset(option.findall(path.read_text(encoding="utf-8")))
        for path in (ROOT / "scripts").glob("*.py")
    }


def file_of(word: str) -> Path | None:
    """The file or folder of the project that a word names, or None where it names none."""
    if " " in word:
        return None
    top, slash, _ = word.partition("/")
    if top in ROOTS and slash:
        return ROOT / word
    if word.endswith(".py") or (slash and top in FOLDERS):
        scripts, module = ROOT / "scripts" / word, PACKAGE / word
        return scripts if scripts.exists() else module
    return None


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or something in one."""
    parts = ["difftalker", *dotted.removeprefix("difftalker.").split(".")]
    for stop in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:stop]))
        except ModuleNotFoundError:
            continue
        return has(module, parts[stop:])
    return False


def is_setting(key: str) -> bool:
    """Whether `model.synthesis.guidance` and its like name a setting."""
    return has(debug(), key.split("."))


def has(found: object, names: Sequence[str]) -> bool:
    """Whether an object has an attribute, that has the next one, and so on."""
    for name in names:
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def defined_in(path: Path) -> set[str]:
    """Classes, functions, methods and variables that a file defines."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    broken = []
    for link in links:
        file, _, heading = link.partition("#")
        path = page.parent / file if file else page
        if not path.exists() or (heading and heading not in headings(path)):
            broken.append(link)
    assert broken == []


def test_the_map_of_the_code_is_whole() -> None:
    words = code_words(ROOT / "docs" / "how-it-works.md")
    modules = [path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")]
    assert [name for name in (*FOLDERS, *modules) if name not in words] == []


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_named_files_exist(page: Path) -> None:
    files = {word: file_of(word) for word in code_words(page)}
    assert [word for word, path in files.items() if path and not path.exists()] == []


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_names_are_defined_in_the_files_that_are_said(page: Path) -> None:
    missing = []
    for names, file in NAMED_IN_FILE.findall(page.read_text(encoding="utf-8")):
        path = file_of(file)
        defined = defined_in(path) if path and path.exists() else set()
        for name in CODE.findall(names):
            if not set(name.split(".")) <= defined:
                missing.append(f"{name} in {file}")
    assert missing == []


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_dotted_names_resolve(page: Path) -> None:
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    plain = [body for kind, body in blocks if kind in ("", "sh")]
    words = DOTTED.findall(" ".join((*code_words(page), *plain)))
    missing = [word for word in words if not (is_setting(word) or resolves(word))]
    assert missing == []


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = []
    for words in commands(page):
        every = {**options_of_commands(), **options_of_scripts()}
        # A group has its commands one word further: difftalker baseline train.
        named = words[1] if words[0] == "python" else " ".join(words[:3])
        name = named if named in every or words[0] == "python" else " ".join(words[:2])
        known = every.get(name)
        options = [word.partition("=")[0] for word in words[2:] if re.match("--?[a-z]", word)]
        if known is None:
            wrong.append(name)
        wrong += [f"{name} {option}" for option in options if option not in (known or options)]
    assert wrong == []


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_options_in_the_prose_exist(page: Path) -> None:
    known = frozenset().union(*options_of_commands().values(), *options_of_scripts().values())
    words = [word.split()[0] for word in code_words(page) if word.startswith("--")]
    assert [word for word in words if word.partition("=")[0] not in known] == []


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_examples_import_what_exists(page: Path) -> None:
    missing = []
    for kind, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind != "python":
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("difftalker"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                missing += [name for name in names if not resolves(name)]
    assert missing == []


def test_moved_modules_are_where_the_changelog_says() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+`) \| (`.+`) \|$", text, re.M)
    assert rows
    new = [word for _, cell in rows for word in CODE.findall(cell)]
    assert [word for word in new if not resolves(word)] == []
