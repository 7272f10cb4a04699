# %% [markdown]
# # The learner as a library
#
# `covr_jax.agents` is pure functions: `init`, `act`, `update`. No command line, no simulator, no Torch. Here RAD learns
# on random transitions, so there is nothing to learn but the critic's loss falls.

# %%
import jax
import jax.numpy as jnp

from covr_jax.agents import make_learner, make_method
from covr_jax.config import AugmentConfig, SACConfig
from covr_jax.types import Batch, Prior

SIZE, ACTIONS, ROWS = 24, 2, 32

# %% [markdown]
# A batch is a record of arrays: images are bytes, three frames deep; actions lie in [-1, 1]. `prior` is the VLM's
# action and whether there is one, which the actor's loss pulls towards (Eq. 4 of the paper); here there is none.


# %%
def random_batch(key):
    keys = jax.random.split(key, 4)
    shape = (ROWS, SIZE, SIZE, 9)
    images = [jax.random.randint(k, shape, 0, 256, jnp.int32).astype(jnp.uint8) for k in keys[:2]]
    action = jax.random.uniform(keys[2], (ROWS, ACTIONS), minval=-1.0, maxval=1.0)
    reward = jax.random.uniform(keys[3], (ROWS,))
    return Batch(images[0], action, reward, jnp.ones(ROWS), images[1], Prior(action, jnp.zeros(ROWS, bool)))


# %%
method = make_method("rad", AugmentConfig(), image_size=SIZE, task_default="translate")
config = SACConfig(hidden_dim=64, num_filters=16, conv_kernels=(4, 3), conv_strides=(4, 1))
learner = make_learner(ACTIONS, 1e-3, method, config)
batch = random_batch(jax.random.key(0))
state = learner.init(jax.random.key(1), batch.observation[:1], batch.action[:1])

# %% [markdown]
# `update` is jitted by the caller, who also decides how often the actor is updated.

# %%
update = jax.jit(learner.update, static_argnames="with_actor", donate_argnums=0)
losses = []
for step in range(20):
    state, metrics = update(state, batch, jax.random.key(step), with_actor=step % 2 == 0)
    losses.append(float(metrics["losses/critic"]))
print(f"critic's loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after 20 updates")

# %%
mode = jax.jit(learner.act)(state, batch.observation)
sample = learner.act(state, batch.observation, jax.random.key(5))
print("mean action", mode[0], "sampled", sample[0])
