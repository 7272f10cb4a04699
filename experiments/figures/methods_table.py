"""Writes the table of published hyperparameters into docs/methods.md, out of the methods' own settings.

python experiments/figures/methods_table.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from covr_jax import presets
from covr_jax.agents.methods import METHODS, published_hyperparameters
from covr_jax.config import Config
from covr_jax.report.table import markdown
from covr_jax.training.resolve import resolve

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
BEGIN, END = "<!-- begin: experiments/figures/methods_table.py -->", "<!-- end -->"
HEADER = ["method", "option", "tasks", "published", "here", "read in"]


def _options(method: str) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Yields (option, tasks, published value); no tasks: all that no other row names."""
    published = published_hyperparameters(method)
    common = {name: value for name, value in (published.always | published.full_size).items() if name[:4] != "vlm."}
    yield from ((name, (), value) for name, value in common.items())
    by_value: dict[tuple[str, Any], list[str]] = {}
    for task, values in published.tasks.items():
        for name, value in values.items():
            by_value.setdefault((name, value), []).append(task)
    yield from ((name, tuple(tasks), value) for (name, value), tasks in by_value.items())


def _here(method: str, option: str, tasks: tuple[str, ...]) -> Any:
    """The value that ``--preset paper`` uses."""
    named = {task for name, others, _ in _options(method) if name == option for task in others}
    task = tasks[0] if tasks else next(t for t in (Config.task, "finger_spin") if t not in named)
    group, name = option.split(".")
    return getattr(getattr(resolve(presets.make("paper", method, task=task)), group), name)


def table() -> str:
    """Returns the table as Markdown."""
    rows = []
    for method in METHODS:
        source = published_hyperparameters(method).source
        for option, tasks, value in _options(method):
            here = _here(method, option, tasks)
            rows.append([f"`{method}`", f"`{option}`", ", ".join(tasks) or "others", str(value), str(here), source])
    for profile, options in presets.CARLA_LEARNERS.items():
        config = presets.make("paper", "sac", task="carla_highway", profile=profile)
        for option, value in options.items():
            group, name = option.split(".")
            here, tasks = getattr(getattr(config, group), name), f"carla_*, profile {profile}"
            rows.append(["all agents", f"`{option}`", tasks, str(value), str(here), presets.CARLA_SOURCES[profile]])
    return markdown([HEADER, *rows])


def with_table(page: str) -> str:
    """Returns the page with the table between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
