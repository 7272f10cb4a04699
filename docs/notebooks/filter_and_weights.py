# %% [markdown]
# # What the VLM is taught: EDDF and RALW on toy returns
#
# Before each round COVR decides which of the agent's samples the VLM imitates (EDDF, Eq. 5) and how much each counts
# (RALW, Eq. 6). Both are functions of returns and of one number, the exploration degree: E[log pi(a|s)], low while the
# policy explores.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from covr_jax.covr import eddf, ralw

returns = np.concatenate([np.random.default_rng(0).normal(100, 20, 180), np.random.default_rng(1).normal(220, 30, 20)])

# %% [markdown]
# The threshold rises with exploitation: a policy that is sure of itself passes on its best samples only.

# %%
scores = eddf.z_score(jnp.asarray(returns))
for exploration in (-4.0, 0.0, 4.0):
    tau = eddf.adaptive_threshold(scores, jnp.asarray(exploration))
    keep = np.asarray(eddf.dynamic_filter(returns, exploration))
    print(f"exploration degree {exploration:+.0f}: tau {float(tau):.2f}, {keep.sum()} of {len(returns)} samples kept")

# %% [markdown]
# Of the kept samples min-max normalisation silences the lower half, and few samples carry the round. Ranks are kinder.

# %%
kept = returns[np.asarray(eddf.dynamic_filter(returns, 0.0))]
figure, axes = plt.subplots(figsize=(6, 3))
for kind in ("minmax", "maxabs", "rank"):
    weights = np.asarray(ralw.loss_weights(kept, kind))
    effective = float(ralw.effective_sample_size(weights))
    silent = np.count_nonzero(weights == 0)
    print(f"{kind}: {silent} of {len(kept)} samples have weight 0; the others are worth {effective:.0f} equal ones")
    axes.plot(np.sort(kept), np.sort(weights), label=kind)
axes.set(xlabel="return", ylabel="weight of the loss")
axes.legend()
figure.savefig("weights.png")
