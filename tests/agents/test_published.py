"""Values that the methods' authors publish, typed in from their released code; a source per row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import presets
from covr_jax.agents import make_learner, make_method
from covr_jax.agents.method import AuxiliaryParams
from covr_jax.agents.methods import METHODS, published_hyperparameters
from covr_jax.agents.state import make_parts
from covr_jax.config import AugmentConfig, Config, SACConfig
from covr_jax.envs import TASKS, find_task
from covr_jax.training.resolve import resolve

DRQV2 = "drqv2 taco"
MEDIUM = "cheetah_run reacher_easy hopper_hop walker_run"
EASY = "cartpole_swingup walker_walk finger_spin ball_in_cup_catch pendulum_swingup"
ROWS = [  # methods, tasks, options, values
    # MishaLaskin/rad and LiuZhenxian123/ResAct, train.py: translated images are rendered as large as the canvas (108),
    # of which center_crop_image keeps pre_transform_image_size (100)
    # microsoft/Mask-based-Latent-Reconstruction, DMControl/src/configs: block_size
    ("mlr", "cartpole_swingup reacher_easy", "mask_depth", 4),
    ("mlr", "cheetah_run walker_walk finger_spin ball_in_cup_catch", "mask_depth", 8),
    ("rad", "cartpole_swingup cheetah_run finger_spin", "env.image_size", 108),
    ("rad", "cartpole_swingup cheetah_run finger_spin", "augment.center_crop", 100),
    ("rad", "cartpole_swingup cheetah_run finger_spin", "augment.size", 108),
    ("rad", "walker_walk walker_run", "env.image_size", 100),  # crops
    ("rad", "walker_walk walker_run", "augment.size", 84),
    ("resact", "cartpole_swingup walker_walk", "env.image_size", 108),
    ("resact", "cartpole_swingup walker_walk", "augment.center_crop", 100),
    (DRQV2, EASY, "noise_steps", 100_000),  # facebookresearch/drqv2, cfgs/task/easy.yaml; the same files in TACO
    (DRQV2, MEDIUM, "noise_steps", 500_000),  # cfgs/task/medium.yaml
    (DRQV2, "walker_walk walker_run", "n_step", 1),  # cfgs/task/walker_*.yaml
    (DRQV2, "cheetah_run cartpole_swingup", "n_step", 3),  # cfgs/config.yaml
    ("drqv2", "walker_walk walker_run", "batch_size", 512),  # cfgs/task/walker_*.yaml
    ("drqv2", "cheetah_run cartpole_swingup", "batch_size", 256),  # cfgs/config.yaml
    ("taco", "walker_walk cheetah_run", "batch_size", 1024),  # FrankZheng2022/TACO, cfgs/agent/taco.yaml, read last
    (DRQV2, "walker_walk cheetah_run", "learning_rate", 1e-4),  # cfgs/config.yaml
    (DRQV2, "walker_walk cheetah_run", "init_steps", 2000),
    ("mlr", "cheetah_run", "auxiliary_learning_rate", 1e-4),  # microsoft/Mask-based-Latent-Reconstruction,
    ("mlr", "walker_walk finger_spin", "auxiliary_learning_rate", 5e-4),  # DMControl/src/mtm_sac.py: 0.5 of the yaml's
    ("mlr", "cheetah_run walker_walk", "auxiliary_warmup", 6000),  # mtm_sac.py
    ("mlr", "cheetah_run walker_walk", "auxiliary_clip_norm", 10.0),  # mtm_sac.py
    ("mlr", "walker_walk", "auxiliary_tau", 0.1),  # configs/walker_walk.yaml, momentum_tau
    ("mlr", "cheetah_run cartpole_swingup", "auxiliary_tau", 0.05),  # configs/*.yaml
    ("spr", "cheetah_run", "auxiliary_learning_rate", 2e-4),  # microsoft/Playvirtual, DMControl/src/configs
    ("spr", "walker_walk finger_spin", "auxiliary_learning_rate", 1e-3),
    (
        "spr",
        "cheetah_run walker_walk",
        "auxiliary_encoder_scale",
        3.0,
    ),  # spr_sac.py: 2 encoder_lr and auxiliary_task_lr
    ("curl", "cheetah_run walker_walk", "auxiliary_encoder_scale", 2.0),  # MishaLaskin/curl, curl_sac.py: two Adams
    ("mlr spr curl drq", "cheetah_run walker_walk", "batch_size", 512),
    ("deepmdp svea", "cheetah_run walker_walk", "catch_up_updates", 1000),  # facebookresearch/deep_bisim4control and
    ("rad drq curl", "cheetah_run walker_walk", "catch_up_updates", 0),  # dmcontrol-generalization-benchmark, train.py
    ("resact", "reacher_easy walker_walk", "feature_dim", 50),  # LiuZhenxian123/ResAct, train.py
    ("resact", "cheetah_run", "feature_dim", 64),  # run_cheetah.sh
    ("resact", "cheetah_run", "auxiliary_encoder_scale", 0.2),  # the encoder's rate is 2e-4, the heads' 1e-3
    ("rad curl sac spr mlr", "cheetah_run", "learning_rate", 2e-4),  # PlaNet benchmark
    ("rad curl sac spr mlr", "walker_walk reacher_easy", "learning_rate", 1e-3),
    # arXiv 2501.16142, not compared with its table
    ("mrq", "cheetah_run walker_walk", "batch_size", 256),
    ("mrq", "cheetah_run walker_walk", "learning_rate", 3e-4),
    ("mrq", "cheetah_run walker_walk", "auxiliary_learning_rate", 1e-4),
    ("mrq", "cheetah_run", "weight_decay", 1e-4),
    ("mrq", "cheetah_run", "critic_clip_norm", 20.0),
    ("mrq", "cheetah_run", "target_period", 250),
    ("mrq", "cheetah_run", "n_step", 3),
    ("mrq", "cheetah_run", "noise_start", 0.2),
    ("mrq", "cheetah_run", "noise_end", 0.2),
    ("mrq", "cheetah_run", "feature_dim", 512),
    ("mrq", "cheetah_run", "hidden_dim", 512),
    ("mrq", "cheetah_run", "replay.sampling", "prioritised"),
    ("mrq", "cheetah_run", "replay.priority_alpha", 0.4),
    ("mrq", "cheetah_run", "replay.priority_floor", 1.0),
    ("mrq", "cheetah_run", "replay.priority_beta", 0.0),
    ("mrq", "cheetah_run", "replay.anneal_updates", 0),
    ("drq svea", "cheetah_run walker_walk", "learning_rate", 1e-3),  # denisyarats/drq, config.yaml; arguments.py
]
CASES = [(m, t, option, value) for ms, ts, option, value in ROWS for m in ms.split() for t in ts.split()]


@pytest.mark.parametrize(("method", "task", "option", "value"), CASES)
def test_the_paper_preset_has_the_published_value(method, task, option, value):
    group, name = option.split(".") if "." in option else ("sac", option)
    config = resolve(presets.make("paper", method, task=task))
    assert getattr(getattr(config, group), name) == value
    on_base = resolve(presets.make("throughput", "covr", method, task))
    assert getattr(getattr(on_base, group), name) == value


@pytest.mark.parametrize("method", METHODS)
def test_published_values_belong_to_known_tasks_and_differ_from_the_default(method):
    published = published_hyperparameters(method)
    for task, options in published.tasks.items():
        assert find_task(task).name == task
        for name, value in options.items():
            group, field = name.split(".")
            default = (published.always | published.full_size).get(name, getattr(getattr(Config(), group), field))
            assert value != default, (task, name)


def test_rad_places_the_centre_of_larger_images_on_the_tasks_that_it_translates():
    translated = {task for task in TASKS if find_task(task).augmentation == "translate"}
    assert set(published_hyperparameters("rad").tasks) == translated


@pytest.mark.parametrize("method", METHODS)
def test_agents_on_carla_have_dmrs_sizes_and_speeds(method):
    """kyoran/DMR, auto_run_batch_modal.sh and defaults of train_testm.py; PixelEncoderCarla098 of encoder.py."""
    config = resolve(presets.make("paper", method, task="carla_highway"))
    sac = config.sac
    assert (config.env.image_size, sac.batch_size, sac.hidden_dim) == (128, 32, 256)
    assert (sac.learning_rate, sac.alpha_learning_rate, sac.auxiliary_learning_rate) == (1e-4, 1e-4, 1e-4)
    assert (sac.critic_tau, sac.encoder_tau, sac.init_temperature, sac.alpha_beta1) == (0.005, 0.005, 0.01, 0.9)
    assert sac.filters == (64, 128, 256, 256) and sac.conv_kernels == (5, 3, 3, 3) and sac.conv_strides == (2,) * 4
    assert (sac.init_steps, sac.catch_up_updates) == (1000, 1000) or method in ("drqv2", "taco")
    side = 128
    for kernel in sac.conv_kernels:
        side = (side - kernel) // 2 + 1
    assert side == 6  # out_dims = 6 * 6
    other = presets.make("paper", method, task="carla_highway", profile="dbc")
    assert other.sac.conv_filters is None and presets.make("cpu", method, task="carla_highway").sac.batch_size == 128


def small_parts(**options):
    method = make_method("sac", AugmentConfig(), 20, "translate")
    return make_parts(1, 1e-3, method, SACConfig(**options))


def updates_of(gradients, steps, **options):
    """Updates of AuxiliaryParams by the auxiliary optimizer, with the same gradients in each step."""
    optimizer = small_parts(auxiliary_learning_rate=0.1, **options).auxiliary_optimizer
    state, updates = optimizer.init(gradients), None
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, gradients)
    return updates


def test_the_auxiliary_rate_warms_up_and_falls():
    """MLR's InverseSquareRootSchedule: 5e-4 at first, linear to 1 at W, then sqrt(W / step)."""
    gradients = AuxiliaryParams(*({"w": jnp.ones(2)} for _ in range(3)))
    for steps, factor in ((1, 5e-4), (3, 5e-4 + 2 * (1 - 5e-4) / 4), (5, 1.0), (17, 0.5)):
        updates = updates_of(gradients, steps, auxiliary_warmup=4)
        np.testing.assert_allclose(
            updates.encoder["w"], -0.1 * factor, rtol=1e-4
        )  # Adam of a constant gradient: its rate


def test_the_auxiliary_encoder_has_its_own_rate():
    gradients = AuxiliaryParams(*({"w": jnp.ones(2)} for _ in range(3)))
    updates = updates_of(gradients, 2, auxiliary_encoder_scale=3.0)
    for part, expected in zip(updates, (-0.3, -0.3, -0.1), strict=True):
        np.testing.assert_allclose(part["w"], expected, rtol=1e-4)


def test_auxiliary_gradients_are_clipped_by_their_norm():
    """Gradients 30, 40 and 0 have norm 50; clipped to 10 they reach Adam as 6, 8 and 0: its first moments show it."""
    gradients = AuxiliaryParams({"w": jnp.asarray([30.0])}, {"w": jnp.asarray([40.0])}, {"w": jnp.asarray([0.0])})
    optimizer = small_parts(auxiliary_learning_rate=0.1, auxiliary_clip_norm=10.0).auxiliary_optimizer
    _, state = optimizer.update(gradients, optimizer.init(gradients), gradients)
    moments = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if ".mu" in jax.tree_util.keystr(path)]
    np.testing.assert_allclose(np.concatenate(moments), [0.6, 0.8, 0.0], rtol=1e-5)  # (1 - b1) * 10 * (0.6, 0.8, 0)


def test_gradients_of_the_critic_are_clipped_and_the_actors_are_not():
    gradients = {"one": jnp.asarray([30.0]), "two": jnp.asarray([40.0])}
    parts = small_parts(critic_clip_norm=10.0)
    for optimizer, expected in ((parts.critic_optimizer, [0.6, 0.8]), (parts.optimizer, [3.0, 4.0])):
        _, state = optimizer.update(gradients, optimizer.init(gradients), gradients)
        paths = jax.tree_util.tree_leaves_with_path(state)
        moments = [leaf for path, leaf in paths if ".mu" in jax.tree_util.keystr(path)]
        np.testing.assert_allclose(np.concatenate(moments), expected, rtol=1e-5)


def test_weights_decay_by_their_share_of_the_rate():
    """AdamW: without a gradient a weight w moves by -rate decay w; the rates are 1e-3, and 0.1 beside SAC's losses."""
    parts = small_parts(weight_decay=0.5, auxiliary_learning_rate=0.1)
    weights, gradients = {"w": jnp.asarray([2.0])}, {"w": jnp.zeros(1)}
    for optimizer, rate in ((parts.optimizer, 1e-3), (parts.critic_optimizer, 1e-3), (parts.auxiliary_optimizer, 0.1)):
        three = [AuxiliaryParams(tree, tree, tree) for tree in (gradients, weights)]
        updates, _ = optimizer.update(three[0], optimizer.init(three[1]), three[1])
        np.testing.assert_allclose(updates.encoder["w"], -rate * 0.5 * 2.0, rtol=1e-5)


@pytest.mark.slow
def test_the_momentum_encoder_follows_at_its_own_rate():
    """After one target update the momentum copy moved by auxiliary_tau, the critic's target by encoder_tau."""
    from covr_jax.agents.updates import update_target

    method = make_method("spr", AugmentConfig("crop", 17), 20, "crop")
    sizes = {"hidden_dim": 8, "feature_dim": 5, "num_filters": 4, "conv_kernels": (3,), "conv_strides": (2,)}
    config = SACConfig(encoder_tau=0.05, auxiliary_tau=0.1, **sizes)
    learner = make_learner(1, 1e-3, method, config)
    state = learner.init(jax.random.key(0), jnp.zeros((1, 20, 20, 9), jnp.uint8), jnp.zeros((1, 1)))
    state = state.replace(params=jax.tree.map(lambda x: x + 1.0, state.params))
    target = update_target(config.resolved(1e-3), state).target
    kernel = lambda encoder: np.asarray(jax.tree.leaves(encoder)[0])  # noqa: E731
    before = kernel(state.target["critic"]["encoder"])
    np.testing.assert_allclose(kernel(target["critic"]["encoder"]) - before, 0.05, atol=1e-6)
    np.testing.assert_allclose(kernel(target["momentum"]["encoder"]) - before, 0.1, atol=1e-6)
    np.testing.assert_allclose(kernel(target["momentum"]["torso"]) - kernel(state.target["torso"]), 0.1, atol=1e-6)
