"""README and docs name only what exists: files, functions, options, metrics, tests. Everything is read as text.

That their Python examples run is in ``test_docs_examples.py``.
"""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from covr_jax import config as configuration
from covr_jax import envs
from covr_jax.agents import make_method
from covr_jax.commands import train
from covr_jax.config import Config
from covr_jax.config.validate import validate
from covr_jax.training.resolve import resolve

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + PAGES
README_LINES = 150
TREES = ("covr_jax", "experiments", "tests", "docs", "third_party")  # folders whose files are named by their path
RENAMED = {"covr/vlm_return"}  # on its way into a row, where it is vlm/prior_return
METRIC = r"(?:eval|train|losses|sac|vlm|covr|replay|mem|time|policy|compile|ppo)/[A-Za-z_]+"
every_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@cache
def read(path):
    return path.read_text(encoding="utf-8")


def prose(path):
    """The text without fenced blocks."""
    return re.sub(r"```.*?```", "", read(path), flags=re.DOTALL)


def ticked(path):
    """What stands in backticks, line breaks included, outside of fenced blocks."""
    return [re.sub(r"\s+", " ", text) for text in re.findall(r"`([^`]+)`", prose(path))]


def commands(path):
    """Command lines in fenced blocks without a language, comments cut off."""
    for block in re.findall(r"^```\n(.*?)^```", read(path), flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"\s#.*", "", line)


# --------------------------------------------------------------------------- links and files


def anchors(path):
    """Slugs of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@every_text
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        made = ("docs/images/policy.gif",)  # of a finished run; `experiments/figures/policy_gif.py` writes it
        assert found.exists() or found.relative_to(ROOT).as_posix() in made, target
        assert not anchor or anchor in anchors(found), target


@every_text
def test_pages_of_the_site_link_only_to_pages_of_the_site(path):
    """MkDocs knows the files of docs/ alone; others are named by their path."""
    if path in PAGES:
        assert "](../" not in read(path)


@every_text
def test_paths_in_backticks_exist(path):
    for text in ticked(path):
        if re.fullmatch(rf"(?:{'|'.join(TREES)})/[\w./*-]*", text):
            assert list(ROOT.glob(text.rstrip("/"))), text


def test_readme_is_short():
    assert len(read(ROOT / "README.md").splitlines()) <= README_LINES


def test_every_page_is_in_the_navigation():
    nav = re.findall(r"[\w-]+\.md", read(ROOT / "mkdocs.yml").split("\nnav:")[1])
    assert sorted(nav) == sorted(page.name for page in PAGES)


def test_the_citation_names_software_and_paper():
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    version = re.search(r'__version__ = "(.*)"', read(ROOT / "covr_jax/__init__.py"))[1]
    assert citation["version"] == version and "2601.06122" in str(citation["references"])


# ---------------------------------------------------------------------- modules and functions


@cache
def defined(path):
    """Names at the top of a module: functions, classes, constants, imports. By name, so that classes can be opened."""
    found = {}
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.ImportFrom | ast.Import):
            found |= dict.fromkeys((alias.asname or alias.name for alias in node.names), node)
    return found | members(ast.parse(read(path)))


def members(tree):
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if hasattr(node, "target") else []
        found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def resolves(name):
    """Whether a dotted name below covr_jax is a module, something in one, or a member of a class in one."""
    folder, parts = ROOT / "covr_jax", name.removeprefix("covr_jax.").split(".")
    for i, part in enumerate(parts):
        if (folder / part).is_dir():
            folder = folder / part
            continue
        module = folder / f"{part}.py"
        rest = parts[i + 1 :] if module.exists() else parts[i:]
        names = defined(module if module.exists() else folder / "__init__.py")
        if rest and rest[0] not in names:
            return False
        return len(rest) < 2 or not isinstance(names[rest[0]], ast.ClassDef) or rest[1] in members(names[rest[0]])
    return True


@cache
def leaves():
    """Options as group.leaf, and those of them that are booleans."""
    found, booleans = set(), set()
    for group in fields(Config):
        value = getattr(Config(), group.name)
        for leaf in fields(value) if is_dataclass(value) else ():
            found.add(f"{group.name}.{leaf.name}")
            if isinstance(getattr(value, leaf.name), bool):
                booleans.add(f"{group.name}.{leaf.name}")
    return found, booleans


@every_text
def test_dotted_names_are_modules_functions_or_options(path):
    if path.name in ("CHANGELOG.md", "changelog.md"):  # names of the past
        return
    rooms = {file.stem for file in (ROOT / "covr_jax").iterdir()}
    groups = {group.name for group in fields(Config)}
    for name in ticked(path):
        if not re.fullmatch(r"\w+(?:\.\w+)+", name) or name.endswith((".json", ".py", ".jsonl", ".html", ".xml")):
            continue
        first = name.split(".")[0]
        if first in rooms | groups:
            assert resolves(name) or name in leaves()[0], name


@every_text
def test_named_tests_exist(path):
    for name in ticked(path):
        if re.fullmatch(r"test_\w+", name):
            assert any(f"def {name}(" in read(file) for file in (ROOT / "tests").rglob("test_*.py")), name


def test_every_equation_names_a_function_and_a_test():
    rows = [row.split("|")[1:-1] for row in read(ROOT / "docs/equations.md").splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 20
    for paper, function, test, _ in rows:
        assert re.search(r"`[\w.]+`", function) and re.search(r"`tests/[\w/]+\.py`", test), paper


def test_the_floors_are_those_that_imports_keep():
    tree = ast.parse(read(ROOT / "tests/test_imports.py"))
    floors = next(ast.literal_eval(node.value) for node in tree.body if is_floors(node))
    rows = re.findall(r"^\| (\d) \| (.*) \|$", read(ROOT / "docs/architecture.md"), flags=re.MULTILINE)
    assert {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)`", rooms)} == floors


def is_floors(node):
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FLOORS"


# -------------------------------------------------------------------------------------- options


def test_options_with_a_group_exist():
    """Those of booleans take no value, and ``--group.no-leaf`` switches them off."""
    found, booleans = ({f"--{name}".replace("_", "-") for name in names} for names in leaves())
    off = {name.replace(".", ".no-") for name in booleans}
    text = "\n".join(read(path) for path in TEXTS)
    named = re.findall(r"(--(?!group\.)[a-z]+\.[a-z0-9-]+)( true| false|)\b", text)
    assert len(named) > 20 and {name for name, _ in named} <= found | off
    assert [name for name, value in named if value and name in booleans | off] == []


def options_of(script):
    """Options without a group that a script takes: those in its text, and train.py's where it passes them on."""
    behind = ROOT / "covr_jax" / "commands" / script.name
    sources = [script, *script.parent.glob("tables.py"), *([behind] if behind.exists() else [])]
    if any("add_options(parser)" in read(source) for source in sources):  # several runs
        sources.append(behind.parent / "launch" / "options.py")
    found = set(re.findall(r'"(--[a-z0-9-]+)"', "".join(read(source) for source in sources)))
    if any("train.py" in read(source) for source in sources) or script.parent.name == "paper":
        found |= {f"--{field.name}".replace("_", "-") for field in fields(Config)}
        found |= {"--run-dir", "--preset", "--vlm", "--endpoint", "--devices", "--num-seeds", "--log", "--config"}
        found |= {"--demonstrations", "--hosts", "--num-hosts", "--host-index"}
    return found | {"--help"}


@every_text
def test_commands_name_scripts_and_their_options(path):
    for line in commands(path):
        if match := re.search(r"python (experiments/[\w/]+\.py)(.*)", line):
            script = ROOT / match[1]
            assert script.exists(), line
            assert set(re.findall(r"(?<=\s)(--[a-z0-9-]+)(?=[\s=]|$)", match[2])) <= options_of(script), line
        elif match := re.search(r"python -m (covr_jax[\w.]*)", line):
            assert resolves(match[1]), line
        elif match := re.match(r"make (\w+)", line):
            assert re.search(rf"^{match[1]}:", read(ROOT / "Makefile"), flags=re.MULTILINE), line


TRAINING = {
    line.split("train.py", 1)[1]
    for path in TEXTS
    for line in commands(path)
    if re.search(r"python experiments/train", line)
}


@pytest.mark.parametrize("options", sorted(TRAINING), ids=str.strip)
def test_commands_that_train_have_options_that_go_together(options):
    config, *_ = train.parse(shlex.split(options))
    validate(config)
    resolved = resolve(config)
    task = envs.find_task(config.task, **asdict(config.carla))
    make_method(configuration.agent(resolved), resolved.augment, resolved.env.image_size, task.augmentation)


# -------------------------------------------------------------------------------------- metrics


def test_every_metric_in_the_code_is_explained():
    page = set(re.findall(METRIC, read(ROOT / "docs/metrics.md")))
    for source in (ROOT / "covr_jax").rglob("*.py"):
        missing = set(re.findall(rf'"({METRIC})"', read(source))) - page - RENAMED
        assert not missing, f"{source.name} logs {missing}, which docs/metrics.md does not explain"


def test_every_explained_metric_is_in_the_code():
    sources = "".join(read(source) for source in (ROOT / "covr_jax").rglob("*.py"))
    for name in re.findall(rf"`({METRIC})`", read(ROOT / "docs/metrics.md")):
        assert f'"{name}"' in sources or f'"{name.split("/")[1]}"' in sources, name
