"""Pages that work under a strict content security policy and without any other host."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.layout.house import STATIC

PAGES = sorted(STATIC.glob("*.html"))
VENDORED = sorted(path for path in (STATIC / "vendor").iterdir() if path.suffix in {".js", ".css"})


class Page(HTMLParser):
    """What a page refers to, and what the policy would refuse in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.references: list[str] = []
        self.refused: list[str] = []
        self._in_script = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        for name, value in attrs:
            if name.startswith("on"):
                self.refused.append(f"<{tag} {name}>")
            if name in {"src", "href", "action"}:
                self.references.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.refused.append(f"<script>{data}")


def test_there_are_pages() -> None:
    assert [path.name for path in PAGES] == ["console.html", "sign-in.html"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_runs_no_inline_script(path: Path) -> None:
    assert Page(path).refused == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_refers_to_what_the_package_holds(path: Path) -> None:
    references = Page(path).references
    assert references
    for reference in references:
        if reference.startswith("/static/"):
            assert (STATIC / reference.removeprefix("/static/")).is_file(), reference
        else:
            assert reference == "/sign-in"


@pytest.mark.parametrize(
    "path",
    sorted(path for path in STATIC.iterdir() if path.suffix in {".html", ".js", ".css"}),
    ids=lambda path: path.name,
)
def test_our_own_files_name_no_other_host(path: Path) -> None:
    assert re.findall(r"(?:https?:)?//[\w-]+\.[\w.-]+", path.read_text()) == []


@pytest.mark.parametrize("path", VENDORED, ids=lambda path: path.name)
def test_vendored_files_load_nothing_from_elsewhere(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"url\([\"']?(?:https?:)?//|@import|importScripts\(", text) == []


def test_every_vendored_package_comes_with_its_licence() -> None:
    licences = (STATIC / "vendor/LICENSES.md").read_text()
    for name in ("graphiql", "react", "react-dom", "graphql-ws"):
        assert re.search(rf"^## .*\b{name} \d+\.\d+\.\d+", licences, re.MULTILINE), name
    assert licences.count("Permission is hereby granted") >= 4
