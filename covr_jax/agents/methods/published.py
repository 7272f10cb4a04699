"""The methods by name, and the hyperparameters that their authors publish. No JAX: command lines read this table."""

from __future__ import annotations

from covr_jax.agents.methods.hyperparameters import PublishedHyperparameters

# As in RAD's code, images to translate are rendered at the canvas' size, and only their centre is placed.
_PLACED = {"env.image_size": 108, "augment.center_crop": 100}
_TRANSLATED = (
    "cartpole_swingup",
    "reacher_easy",
    "cheetah_run",
    "finger_spin",
    "ball_in_cup_catch",
    "hopper_hop",
    "pendulum_swingup",
)
_DEEPMDP = {"env.image_size": 84, "sac.auxiliary_learning_rate": 1e-3, "sac.catch_up_updates": 1000}
_WALKER = {"sac.n_step": 1, "sac.batch_size": 512}
_MEDIUM = {"sac.noise_steps": 500_000}  # DrQ-v2's "medium" tasks; all others of the nine are "easy": the default
_DRQV2 = PublishedHyperparameters(
    source="facebookresearch/drqv2: cfgs/config.yaml, cfgs/task",
    tasks={
        "walker_walk": _WALKER,
        "walker_run": _WALKER | _MEDIUM,
        "cheetah_run": _MEDIUM,
        "reacher_easy": _MEDIUM,
        "hopper_hop": _MEDIUM,
    },
    full_size={
        "env.image_size": 84,
        "sac.batch_size": 256,
        "sac.init_steps": 2000,
        "sac.steps_per_update": 2,
        "sac.critic_tau": 0.01,
        "sac.encoder_tau": 0.01,
    },
    # At ten times this rate, the actor's tanh saturates for good before the critics have learned anything.
    always={"sac.learning_rate": 1e-4, "sac.n_step": 3, "sac.torso_tau": 1.0, "sac.actor_update_every": 1},
)

PUBLISHED: dict[str, PublishedHyperparameters] = {
    "sac": PublishedHyperparameters(source="denisyarats/pytorch_sac_ae: train.py", full_size={"env.image_size": 84}),
    "rad": PublishedHyperparameters(
        source="MishaLaskin/rad: train.py, curl_sac.py",
        tasks=dict.fromkeys(_TRANSLATED, _PLACED),  # otherwise the config's defaults are RAD's
        places_images=True,
    ),
    "drq": PublishedHyperparameters(
        source="denisyarats/drq: config.yaml",
        full_size={
            "env.image_size": 84,
            "sac.batch_size": 512,
            "sac.learning_rate": 1e-3,
            "sac.alpha_learning_rate": 1e-3,
            "sac.alpha_beta1": 0.9,
            "sac.critic_tau": 0.01,
            "sac.encoder_tau": 0.01,
        },
    ),
    "drqv2": _DRQV2,
    "deepmdp": PublishedHyperparameters(source="facebookresearch/deep_bisim4control: train.py", full_size=_DEEPMDP),
    "curl": PublishedHyperparameters(
        source="MishaLaskin/curl: train.py, curl_sac.py; microsoft/Playvirtual: DMControl/src/config.yaml",
        full_size={
            "sac.batch_size": 512,
            "sac.auxiliary_learning_rate": 1e-3,
            "sac.auxiliary_encoder_scale": 2.0,  # two Adams of that rate
        },
        always={"augment.kind": "crop"},
        places_images=True,
    ),
    "svea": PublishedHyperparameters(
        source="nicklashansen/dmcontrol-generalization-benchmark: src/arguments.py, src/train.py",
        full_size={
            "env.image_size": 84,
            "sac.learning_rate": 1e-3,
            "sac.catch_up_updates": 1000,
            "sac.feature_dim": 100,
            "sac.conv_kernels": (3,) * 11,
            "sac.conv_strides": (2, *(1,) * 10),
        },
    ),
    "resact": PublishedHyperparameters(
        source="LiuZhenxian123/ResAct: train.py, run_cheetah.sh",
        full_size={"sac.auxiliary_learning_rate": 1e-3} | _PLACED,
        always={"augment.kind": "translate", "sac.n_step": 1},
        places_images=True,
        # The encoder's rate is 2e-4.
        tasks={"cheetah_run": {"sac.feature_dim": 64, "sac.auxiliary_encoder_scale": 0.2}},
    ),
    "taco": PublishedHyperparameters(
        source="FrankZheng2022/TACO: cfgs/config.yaml, cfgs/agent/taco.yaml, cfgs/task",
        full_size=_DRQV2.full_size | {"sac.batch_size": 1024},
        always=_DRQV2.always,
        # The agent's file comes after the task's in the authors' configuration: its batch size holds on walker too.
        tasks={
            task: {name: value for name, value in options.items() if name != "sac.batch_size"}
            for task, options in _DRQV2.tasks.items()
        },
    ),
    "spr": PublishedHyperparameters(
        source="microsoft/Playvirtual: DMControl/src/spr_sac.py, DMControl/src/configs",
        full_size={
            "sac.batch_size": 512,
            "sac.num_filters": 64,
            "sac.auxiliary_learning_rate": 1e-3,
            "sac.auxiliary_encoder_scale": 3.0,  # Adams with rates 2 and 1 times that of the heads
        },
        always={"augment.kind": "crop"},
        places_images=True,
        tasks={"cheetah_run": {"sac.auxiliary_learning_rate": 2e-4}},
    ),
    "mlr": PublishedHyperparameters(
        source="microsoft/Mask-based-Latent-Reconstruction: DMControl/src/mtm_sac.py, DMControl/src/configs",
        full_size={
            "sac.batch_size": 512,
            "sac.num_filters": 64,
            "sac.auxiliary_learning_rate": 5e-4,
            "sac.auxiliary_warmup": 6000,
            "sac.auxiliary_clip_norm": 10.0,
        },
        always={"augment.kind": "crop"},
        places_images=True,
        tasks={
            "cartpole_swingup": {"sac.mask_depth": 4},
            "reacher_easy": {"sac.mask_depth": 4},
            "cheetah_run": {"sac.auxiliary_learning_rate": 1e-4},
            "walker_walk": {"sac.auxiliary_tau": 0.1},
        },
    ),
    "mrq": PublishedHyperparameters(
        source="arXiv 2501.16142, not compared with its table",
        full_size={
            "env.image_size": 84,
            "sac.batch_size": 256,
            "sac.hidden_dim": 512,
            "sac.feature_dim": 512,
            "sac.conv_strides": (2, 2, 2, 1),
            "sac.auxiliary_learning_rate": 1e-4,
            "sac.critic_clip_norm": 20.0,
        },
        always={
            "sac.learning_rate": 3e-4,
            "sac.weight_decay": 1e-4,
            "sac.n_step": 3,
            "sac.actor_update_every": 1,
            "sac.noise_start": 0.2,
            "sac.noise_end": 0.2,
            "replay.sampling": "prioritised",
            "replay.priority_alpha": 0.4,
            "replay.priority_beta": 0.0,
            "replay.priority_floor": 1.0,
            "replay.anneal_updates": 0,
        },
    ),
    "dgc_like": PublishedHyperparameters(
        source="none: DeepMDP's values",
        full_size=_DEEPMDP,
        always={"vlm.name": "openai/clip-vit-base-patch16", "vlm.hold": False, "vlm.return_episodes": 0},
    ),
}
METHODS = tuple(PUBLISHED)
SIZE_FACTORS = {"translate": 1.08, "crop": 0.84}  # RAD's output size / image size: 100 to 108 and 100 to 84
