"""What the options of a run must satisfy, alone and together."""

from __future__ import annotations

from covr_jax.config import MAP_METHODS, WITH_VLM, Config, ConfigError, agent, value_or


def validate(config: Config) -> None:
    """Raise ConfigError, in one line, for the first option that is out of range."""
    at_least_one = {
        "total-steps": config.total_steps,
        "env.num-envs": config.env.num_envs,
        "env.frame-stack": config.env.frame_stack,
        "env.action-repeat": value_or(config.env.action_repeat, 1),
        "env.image-size": config.env.image_size,
        "augment.size": value_or(config.augment.size, 1),
        "sac.batch-size": config.sac.batch_size,
        "sac.updates-per-step": config.sac.updates_per_step,
        "sac.steps-per-update": config.sac.steps_per_update,
        "sac.noise-steps": config.sac.noise_steps,
        "sac.n-step": config.sac.n_step,
        "sac.init-steps": config.sac.init_steps,
        "sac.actor-update-every": config.sac.actor_update_every,
        "sac.hidden-dim": config.sac.hidden_dim,
        "sac.feature-dim": config.sac.feature_dim,
        "sac.num-filters": config.sac.num_filters,
        "replay.capacity": config.replay.capacity,
        "replay.recent-least": config.replay.recent_least,
        "replay.recent-phase": config.replay.recent_phase,
        "covr.psi-0": config.covr.psi_0,
        "covr.anneal-steps": config.covr.anneal_steps,
        "covr.entropy-samples": config.covr.entropy_samples,
        "vlm.every": config.vlm.every,
        "vlm.frames": config.vlm.frames,
        "vlm.max-samples": config.vlm.max_samples,
        "vlm.batch-size": value_or(config.vlm.batch_size, 1),
        "vlm.micro-batch": value_or(config.vlm.micro_batch, 1),
        "vlm.lora-rank": value_or(config.vlm.lora_rank, 1),
        "vlm.steps": value_or(config.vlm.steps, 1),
        "vpf.steps": config.vpf.steps,
        "vpf.epochs": config.vpf.epochs,
        "vpf.minibatch": config.vpf.minibatch,
        "vpf.forward-batch": config.vpf.forward_batch,
        "vpf.anneal-iterations": config.vpf.anneal_iterations,
        "eval.every": config.eval.every,
        "eval.episodes": config.eval.episodes,
        "run.checkpoint-every": config.run.checkpoint_every,
        "run.log-every": config.run.log_every,
    }
    not_negative = {
        "seed": config.seed,
        "covr.guidance-weight": config.guidance_weight,
        "covr.cold-start-rounds": config.cold_start_rounds,
        "covr.min-keep": config.covr.min_keep,
        "vlm.held-out": config.vlm.held_out,
        "vlm.return-episodes": config.vlm.return_episodes,
        "vlm.deadline-s": config.vlm.deadline_s,
        "vlm.restarts": config.vlm.restarts,
        "replay.priority-alpha": config.replay.priority_alpha,
        "replay.priority-beta": config.replay.priority_beta,
        "vpf.value-weight": config.vpf.value_weight,
        "vpf.entropy-weight": config.vpf.entropy_weight,
        "vpf.max-grad-norm": config.vpf.max_grad_norm,
        "vpf.learning-rate": config.vpf.learning_rate,
        "vlm.learning-rate": value_or(config.vlm.learning_rate, 0),
        "vpf.final-learning-rate": config.vpf.final_learning_rate,
        "sac.learning-rate": value_or(config.sac.learning_rate, 0),
        "sac.auxiliary-learning-rate": value_or(config.sac.auxiliary_learning_rate, 0),
        "sac.noise-start": config.sac.noise_start,
        "sac.noise-end": config.sac.noise_end,
        "sac.alpha-learning-rate": config.sac.alpha_learning_rate,
    }
    unit_interval = {
        "sac.discount": config.sac.discount,
        "sac.critic-tau": config.sac.critic_tau,
        "sac.encoder-tau": config.sac.encoder_tau,
        "sac.torso-tau": value_or(config.sac.torso_tau, 0),
        "covr.return-discount": config.covr.return_discount,
        "replay.elite-share": config.replay.elite_share,
        "replay.recent-eta": config.replay.recent_eta,
        "vpf.clip": config.vpf.clip,
        "vpf.discount": config.vpf.discount,
        "vpf.gae-decay": config.vpf.gae_decay,
        "vlm.warmup": value_or(config.vlm.warmup, 0),
        "vlm.label-smoothing": value_or(config.vlm.label_smoothing, 0),
        "vlm.lora-dropout": value_or(config.vlm.lora_dropout, 0),
    }
    rules = (
        (at_least_one, lambda value: value >= 1, "at least 1"),
        (not_negative, lambda value: value >= 0, "0 or more"),
        (unit_interval, lambda value: 0 <= value <= 1, "between 0 and 1"),
    )
    for values, holds, wanted in rules:
        for name, value in values.items():
            if not holds(value):
                raise ConfigError(f"--{name} must be {wanted}, got {value}")
    _check_alone(config)
    _check_together(config)


def _check_alone(config: Config) -> None:
    if config.env.samples not in (1, 2, 4):
        raise ConfigError(f"--env.samples must be 1, 2 or 4, got {config.env.samples}")
    if config.sac.init_temperature <= 0:
        raise ConfigError(f"--sac.init-temperature must be positive, got {config.sac.init_temperature}")
    kernels, strides = config.sac.conv_kernels, config.sac.conv_strides
    if not kernels or len(kernels) != len(strides) or min(*kernels, *strides) < 1:
        sizes = f"--sac.conv-kernels {kernels} and --sac.conv-strides {strides}"
        raise ConfigError(f"{sizes} must be positive, one per layer")
    if not 0 <= config.sac.alpha_beta1 < 1:
        raise ConfigError(f"--sac.alpha-beta1 must be at least 0 and below 1, got {config.sac.alpha_beta1}")
    low, high = config.sac.log_std_min, config.sac.log_std_max
    if not low < high:
        raise ConfigError(f"--sac.log-std-min must be below --sac.log-std-max, got {low} and {high}")
    if not 0 <= config.covr.top_percentile <= 100:
        raise ConfigError(f"--covr.top-percentile must be between 0 and 100, got {config.covr.top_percentile}")
    if not 0 < config.vlm.gpu_share < 1:
        raise ConfigError(f"--vlm.gpu-share must be between 0 and 1, both excluded, got {config.vlm.gpu_share}")
    if not 0 < config.vlm.ask_share <= 1:
        raise ConfigError(f"--vlm.ask-share must be above 0 and at most 1, got {config.vlm.ask_share}")
    if not config.vlm.hang_s > 0:
        raise ConfigError(f"--vlm.hang-s must be positive, got {config.vlm.hang_s}")


def _check_together(config: Config) -> None:
    if agent(config) == "resact" and config.sac.n_step > 1:
        # Its target reads the action before the last of the n steps, which a batch does not hold.
        raise ConfigError(f"resact takes --sac.n-step 1 only, got {config.sac.n_step}")
    if config.vlm.record and config.vlm.replay is not None:
        raise ConfigError("--vlm.record and --vlm.replay exclude each other")
    if config.method in WITH_VLM and config.replay.sampling == "elite":
        raise ConfigError(f"--replay.sampling elite is for runs without a VLM; drop it or {config.method}")
    if not 0.01 <= config.vpf.temperature <= 10:
        raise ConfigError(f"--vpf.temperature must be between 0.01 and 10, got {config.vpf.temperature}")
    if config.method in WITH_VLM and config.vlm.name == "none":
        raise ConfigError(f"{config.method} needs a VLM; use --vlm tiny or a model, or --method rad")
    vlm = config.vlm
    if vlm.frames > (stack := config.env.frame_stack):
        raise ConfigError(f"--vlm.frames must be at most --env.frame-stack, {stack}, got {vlm.frames}")
    if config.method == "vpf" and (vlm.name == "fake" or vlm.mode != "sync" or vlm.record or vlm.replay):
        raise ConfigError("vpf trains the VLM itself: a model, not fake, --vlm.mode sync, no recording or replay")
    if config.method == "vpf" and vlm.decoding == "free":
        raise ConfigError("vpf trains the VLM under the action grammar; use --vlm.decoding constrained")
    if config.base in MAP_METHODS:
        raise ConfigError(f"{config.base} asks a VLM of its own and cannot be a --base; use --method {config.base}")
    if config.method in MAP_METHODS:
        _check_maps(config)


def _check_maps(config: Config) -> None:
    method, vlm = config.method, config.vlm
    if vlm.name == "fake" and vlm.replay is None:
        raise ConfigError(f"{method} needs maps, which --vlm fake cannot give; use --vlm tiny or a CLIP model")
    if vlm.hold:
        raise ConfigError(f"{method} takes --vlm.no-hold only: a map belongs to the frame that was asked about")
    if vlm.frames > 1:
        raise ConfigError(f"{method} takes --vlm.frames 1 only: a map belongs to one frame")
    if vlm.return_episodes:
        raise ConfigError(f"{method} takes --vlm.return-episodes 0 only: its VLM proposes no actions")
