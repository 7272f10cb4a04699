# %% [markdown]
# # Looking at a finished run
#
# A run directory's `metrics.jsonl` has everything that was measured, one JSON object per row. `RUN` is a recorded run
# of `make demo`; put your own directory there.

# %%
from pathlib import Path

import matplotlib.pyplot as plt

import covr_jax
from covr_jax.io.metrics import read_metrics

RUN = Path(covr_jax.__file__).parents[1] / "experiments/results/demo/cartpole_swingup/covr/seed1"
rows = read_metrics(RUN / "metrics.jsonl")
print(len(rows), "rows;", len({name for row in rows for name in row}), "names, explained in docs/metrics.md")


# %%
def series(name):
    """Env steps and values of a metric, where it was measured."""
    points = [(row["env_steps"], row[name]) for row in rows if row.get(name) is not None]
    return [list(axis) for axis in zip(*points, strict=True)]


# %% [markdown]
# The policy's return, and that of the VLM alone after each round of fine-tuning.

# %%
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(*series("eval/episode_return"), marker="o", label="policy")
axes.plot(*series("vlm/prior_return"), marker="s", linestyle="--", label="VLM alone")
for step in series("covr/round")[0]:
    axes.axvline(step, color="0.8", zorder=0)
axes.set(xlabel="env steps", ylabel="return")
axes.legend()
figure.savefig("run.png", bbox_inches="tight")

# %%
for step, kept in zip(*series("covr/kept_fraction"), strict=True):
    print(f"round at {step:,} env steps: {kept:.0%} of the samples kept")
