"""MkDocs hook: one API page per public module, grouped by room, and files from outside of docs/.

The modules are read as text (griffe); nothing is imported. A page may hold ``<!-- include: FILE -->``, with FILE
relative to the repository's root: a file host shows nothing in its place, the site shows the file.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "covr_jax"
_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)


def public_modules() -> dict[str, list[str]]:
    """Dotted names of the public modules by room; the package's own ``__init__`` and its files come first."""
    rooms: dict[str, list[str]] = {"covr_jax": []}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        single = len(parts) == 1 or (PACKAGE / f"{parts[1]}.py").exists()
        rooms.setdefault("covr_jax" if single else parts[1], []).append(".".join(parts))
    return rooms


def first_sentence(module: str) -> str:
    """First paragraph of a module's docstring, on one line."""
    base = ROOT / Path(*module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def _index(room: str, modules: list[str]) -> str:
    rows = [f"| [`{module}`]({module}.md) | {first_sentence(module)} |" for module in modules]
    return "\n".join([f"# {room}", "", "| module | |", "|---|---|", *rows, ""])


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the API section to the navigation."""
    section: list[Any] = []
    for room, modules in public_modules().items():
        pages = [{module.removeprefix(f"covr_jax.{room}."): f"api/{module}.md"} for module in modules]
        section.append({room: [f"api/{room}/index.md", *pages]})
    config.nav = [*(config.nav or []), {"API": section}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the API pages."""
    for room, modules in public_modules().items():
        index = _index(room, modules).replace("](covr_jax", "](../covr_jax")
        files.append(File.generated(config, f"api/{room}/index.md", content=index))
        for module in modules:
            text = f"# {module}\n\n::: {module}\n"
            files.append(File.generated(config, f"api/{module}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Replaces ``<!-- include: FILE -->`` with the file, without its title; pages without sections get more width."""

    def include(match: re.Match[str]) -> str:
        text = (ROOT / match[1]).read_text(encoding="utf-8")
        text = re.sub(r"^# .*\n", "", text).replace("](docs/", "](").replace("[docs/", "[")
        return text.replace("](CHANGELOG.md", "](changelog.md").replace("](CONTRIBUTING.md", "](contributing.md")

    if "\n## " not in markdown and ":::" not in markdown and "<!-- include" not in markdown:
        page.meta["hide"] = ["toc"]
    return _INCLUDE.sub(include, markdown)
