"""What the pages name is there: files behind links, paths, names in them, commands and their options."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from latentcast.cli.arguments import app

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "latentcast"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
}
NAMES = {path.name for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.*")}
BLOCK = re.compile(r"^```(\w*).*?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def in_backticks(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", PAGES[page]))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", PAGES[page])):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = ROOT / page if not name else (ROOT / page).parent / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    for word in in_backticks(page):
        if re.fullmatch(r"(src|tests|docs|benchmarks)/\S*|[\w-]+(/[\w.-]+)+\.(py|js|npy)", word):
            assert (ROOT / word).exists() or (PACKAGE / word).exists(), word
        elif re.fullmatch(r"[\w-]+\.(py|js|npy)", word):
            assert word in NAMES, word


def test_the_formulas_are_where_the_readme_says() -> None:
    entries = re.findall(r"`([\w/]+\.py)`((?:(?:: |, )`\w+`)*)", PAGES["README.md"])
    assert len(entries) >= 10
    for path, names in entries:
        source = (PACKAGE / path).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert re.search(rf"\b(?:class|def) {name}\b", source), f"{path} has no {name}"


def test_the_map_of_the_house_is_whole() -> None:
    (block,) = (text for _, text in BLOCK.findall(PAGES["README.md"]) if text.startswith("src/latentcast/"))
    shown, above = set(), [PACKAGE]
    for indent, name in re.findall(r"^( +)([\w./]+) ", block, re.MULTILINE):
        above[len(indent) // 2 :] = [above[len(indent) // 2 - 1] / name]
        assert above[-1].exists(), name
        shown.add(above[-1])
    modules = {path for path in PACKAGE.glob("*") if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules - shown == {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}


def commands(page: str) -> list[list[str]]:
    """The words of every command of latentcast on a page, those after `--` apart."""
    lines = [line for kind, text in BLOCK.findall(PAGES[page]) if kind == "sh" for line in text.splitlines()]
    found = []
    for line in [*lines, *in_backticks(page)]:
        words = shlex.split(re.sub(r"(?:^|\s)#.*", "", line))
        while "latentcast" in words:
            words = words[words.index("latentcast") + 1 :]
            found.append(words[: words.index("--")] if "--" in words else words)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_and_their_options_exist(page: str) -> None:
    for words in commands(page):
        command: Any = typer.main.get_command(app)
        for word in words:
            if not hasattr(command, "commands"):
                break
            assert word in command.commands, words
            command = command.commands[word]
        options = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, words


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"(?:`|^)make ([\w-]+)", PAGES[page], re.MULTILINE):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
