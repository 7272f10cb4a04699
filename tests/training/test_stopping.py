"""Runs that are asked to stop, and runs that leave the finite numbers."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.commands.console import ConsoleReporter
from covr_jax.io.checkpoint import Checkpointer
from covr_jax.report import write_report
from covr_jax.report.table import read_final
from covr_jax.training import loop
from covr_jax.training.divergence import check_updates, tell_skipped
from covr_jax.types import Diverged, Preempted
from tests.support.reporters import Quiet
from tests.support.trees import assert_trees_equal, host_copy
from tests.support.watched_runs import rows_of

pytestmark = pytest.mark.xdist_group("training")


def asked_after(count):
    """A request that comes before the answer to question number ``count``."""
    asked = iter(range(count))
    return lambda: None if next(asked, None) is not None else "SIGTERM"


def test_a_run_that_is_stopped_between_chunks_loses_nothing(run, tiny_config, folder, covr):
    directory = folder / "stopped"
    with pytest.raises(Preempted, match=r"^stopped by SIGTERM at 3,?\d+ env steps$"):
        run(tiny_config, directory, stop=asked_after(3))
    assert 2500 < Checkpointer(directory).steps()[-1] < 4000  # and not at the next multiple of 4000
    again = run(tiny_config, directory)
    assert_trees_equal(host_copy(again.ended), host_copy(covr.ended))
    assert rows_of(directory) == rows_of(folder / "covr")


def test_a_run_that_is_stopped_in_a_round_makes_it_again(run, tiny_config, folder, covr):
    directory, asked = folder / "stopped in a round", []

    def stop():
        """Asked between chunks and in the first round's only step."""
        asked.append(1)
        return "SIGUSR1" if len(asked) == 3 else None

    with ConsoleReporter(tiny_config.total_steps, stop) as reporter, pytest.raises(Preempted, match="SIGUSR1"):
        run(tiny_config, directory, reporter=reporter, stop=stop)
    assert not list((directory / "vlm").glob("round_1"))
    again = run(tiny_config, directory)
    assert len(again.rounds) == len(covr.rounds)
    assert_trees_equal(host_copy(again.ended), host_copy(covr.ended))


def not_a_number(tree):
    """The tree with NaN in place of all floats."""
    return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def test_a_diverged_run_stops_and_shows_no_older_number(run, tiny_config, folder, monkeypatch):
    directory, chunk = folder / "diverged", loop.AgentTrainer._chunk

    def poisoned(self):
        if self.env_steps > 5000:
            params = not_a_number(self.state.learner.params)
            self.state = self.state.replace(learner=self.state.learner.replace(params=params))
        chunk(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.AgentTrainer, "_chunk", poisoned)
        with pytest.raises(
            Diverged, match=r"^diverged at 5,\d{3} env steps: losses/\w+ is nan, and the last \d+ of .*last checkpoint"
        ) as said:
            run(tiny_config, directory)
    assert "\n" not in str(said.value)
    record = json.loads((directory / "diverged.json").read_text())
    assert record["reason"].startswith("losses/") and 5000 < record["env_steps"] < 6900
    assert record["last_checkpoint"] == Checkpointer(directory).steps()[-1] < record["env_steps"]
    assert not (directory / "result.json").exists() and read_final(directory) is None
    page = write_report(directory).read_text()
    assert "Diverged" in page and "Final return" not in page and "Latest return" not in page
    run(tiny_config, directory)  # whatever made it diverge is gone
    assert not (directory / "diverged.json").exists() and read_final(directory) is not None


def test_a_bad_update_is_skipped_and_counted_and_ten_in_a_row_end_the_run():
    bad, messages = {"losses/critic": math.nan, "losses/actor": 0.5, "sac/entropy": math.nan}, Quiet()
    check_updates(bad, 100, skipped_in_a_row=9)
    check_updates({"losses/critic": 0.1}, 100, skipped_in_a_row=0)
    with pytest.raises(
        Diverged, match=r"^losses/critic is nan, and the last 10 of 1,000 updates had no finite gradient$"
    ):
        check_updates(bad, 1000, skipped_in_a_row=10)
    with pytest.raises(Diverged, match=r"^losses/critic is nan after 100 updates$"):
        check_updates(bad, 100, skipped_in_a_row=0)
    for before, now in ((0, 0), (0, 2), (2, 3)):
        tell_skipped(before, now, 5000, messages)
    assert len(messages.messages) == 1 and messages.messages[0].startswith("at 5,000 env steps 2 updates had no finite")


def test_a_new_run_holds_no_nan(tiny_config, make_programs):
    """JAX_DEBUG_NANS=1, the field's tool for finding them, would stop at it."""
    state = make_programs(tiny_config).init()
    numbers = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert numbers and not any(np.isnan(leaf).any() for leaf in numbers)


def test_parameters_that_are_not_finite_are_never_saved(run, tiny_config, folder, monkeypatch):
    directory, save = folder / "not saved", loop.AgentTrainer.save

    def poisoned(self):
        params = not_a_number(self.state.learner.params)
        self.state = self.state.replace(learner=self.state.learner.replace(params=params))
        save(self)

    monkeypatch.setattr(loop.AgentTrainer, "save", poisoned)
    with pytest.raises(Diverged, match=r"the parameters .* are not finite; there is no checkpoint"):
        run(tiny_config, directory)
    assert Checkpointer(directory).steps() == []
