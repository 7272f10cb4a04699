"""Every option of a run: one frozen dataclass tree, defaults = the paper's, with unit and source per field.

``experiments/`` parses it from the command line; library code receives the part it needs. Where the paper is silent
the comment says whose value it is: [COVR] the paper, [RAD] [PlaNet] [SAC-AE] the code its tables build on, [ours].
Env steps = agent steps x action repeat.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal


class ConfigError(ValueError):
    """An option that cannot be used; the message is one line that says what to do."""


Distractors = Literal[
    "none", "color_easy", "color_hard", "background_easy", "background_hard", "camera_easy", "camera_hard"
]


Storage = Literal["device", "host"]

Agent = Literal["sac", "rad", "drq", "drqv2", "deepmdp", "curl", "svea", "resact", "taco", "spr", "mlr"]
Guided = Literal["covr", "dpl", "apl"]
VLMPolicyMethod = Literal["vbe", "vpf"]
MapMethod = Literal["dgc_like"]
GUIDED = ("covr", "dpl", "apl")  # a VLM's actions regularise the actor of ``base``
VLM_POLICY_METHODS = ("vbe", "vpf")  # the VLM is the agent
ON_BASE = (*GUIDED, *VLM_POLICY_METHODS)  # name another agent, ``base``
MAP_METHODS = ("dgc_like",)  # maps of a VLM are targets of the agent's own features
WITH_VLM = (*ON_BASE, *MAP_METHODS)


@dataclass(frozen=True)
class EnvConfig:
    """The environments and their pictures."""

    num_envs: int = 1  # environments stepped in parallel [paper: 1]
    action_repeat: int | None = None  # physics control steps per agent step; None: the task's [PlaNet]
    frame_stack: int = 3  # frames per observation [SAC-AE]
    image_size: int = 100  # rendered height = width, pixels [RAD: 100, augmented to 108]
    samples: int = 4  # visibility rays per pixel: 1, 2 or 4 [MuJoCo: 4]
    distractors: Distractors = "none"  # what each episode changes in the picture


@dataclass(frozen=True)
class SACConfig:
    """The learner."""

    batch_size: int = 128  # transitions per update [RAD]
    updates_per_step: int = 1  # gradient updates per agent step of the whole env batch [SAC-AE: 1 at num_envs=1]
    steps_per_update: int = 1  # updates only at every such agent step [DrQ-v2: 2]
    init_steps: int = 1000  # random transitions before the first update [SAC-AE]
    discount: float = 0.99
    n_step: int = 1  # rewards summed before the target bootstraps [SAC-AE: 1]
    learning_rate: float | None = None  # actor, critic and encoder; None: the task's [PlaNet table]
    auxiliary_learning_rate: float | None = None  # of losses beside SAC's; None: learning_rate [DeepMDP, CURL: 1e-3]
    alpha_learning_rate: float = 1e-4
    alpha_beta1: float = 0.5  # Adam beta1 of the temperature [SAC-AE]
    init_temperature: float = 0.1
    critic_tau: float = 0.01  # target EMA of the Q heads
    encoder_tau: float = 0.05  # target EMA of the encoder
    torso_tau: float | None = None  # target EMA of the convolutions; None: encoder_tau [DrQ-v2: 1, no target]
    noise_start: float = 1.0  # exploration noise of deterministic policies, standard deviation [DrQ-v2]
    noise_end: float = 0.1  # [DrQ-v2]
    noise_steps: int = 100_000  # env steps from the first to the last, linearly [DrQ-v2: 100K, 500K, 2M by difficulty]
    actor_update_every: int = 2  # critic updates per actor, alpha and target update [SAC-AE]
    hidden_dim: int = 1024
    feature_dim: int = 50
    num_filters: int = 32
    conv_kernels: tuple[int, ...] = (3, 3, 3, 3)  # height = width of each convolution [SAC-AE]
    conv_strides: tuple[int, ...] = (2, 1, 1, 1)  # [SAC-AE]
    # What the first convolution's weights multiply: the frames, or the newest one and the changes between them [ours]
    frame_basis: Literal["frames", "differences"] = "frames"
    # Of the networks' products; parameters, losses and Adam stay float32. tf32 is float32 where the device lacks it
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"  # [ours]
    # advantage: a prior guides only where the critics value it above the policy's own action [ours; the paper's: none]
    prior_gate: Literal["none", "advantage"] = "none"
    log_std_min: float = -10.0
    log_std_max: float = 2.0


@dataclass(frozen=True)
class AugmentConfig:
    """How images are changed for updates."""

    kind: Literal["auto", "none", "translate", "crop"] = "auto"  # auto: the task's RAD augmentation, none for SAC
    size: int | None = None  # output height = width; None: image_size * 1.08 for translate, * 0.84 for crop [RAD]


@dataclass(frozen=True)
class ReplayConfig:
    """The experience that is kept."""

    capacity: int = 100_000  # transitions over all environments [SAC-AE family]
    # prioritised: PER; recent: ERE; elite: a share from what EDDF selects in each round, no VLM [COVR, Table 5]
    sampling: Literal["uniform", "prioritised", "recent", "elite"] = "uniform"
    priority_alpha: float = 0.6  # [PER]
    priority_beta: float = 0.4  # [PER: rises to 1]
    recent_eta: float = 0.996  # [ERE: rises to 1]
    recent_least: int = 5000  # transitions [ERE]
    recent_phase: int = 1000  # updates after which the window is wide again [ERE: an episode's]
    elite_share: float = 0.8  # of the batch [COVR: 0.8 and 0.5]
    storage: Storage = "device"  # where frames stay; host: its pinned memory, for devices with little of their own


@dataclass(frozen=True)
class CovrConfig:
    """The paper's own rounds, filter, weights and guidance."""

    guidance_weight: float | None = None  # lambda of Eq. 4; None: the task's [COVR: 1.0, CARLA 2.0]
    psi_0: int = 5000  # first fine-tune interval, env steps [COVR]
    schedule: Literal["linear", "recursive"] = "linear"  # reading of the interval rule
    anneal_steps: int = 100_000  # env steps until the guidance of `apl` is gone [ours]
    cold_start_rounds: int | None = None  # guidance opens after so many rounds; None: the task's [COVR: 4, CARLA 2]
    exploration: Literal["neg_entropy", "literal", "normalised", "progress"] = "neg_entropy"  # eps of Eq. 5
    entropy_samples: int = 1024  # observations of D_f for the entropy estimate [ours]
    min_keep: int = 64  # EDDF keeps at least this many samples [ours]
    return_discount: float = 0.99  # gamma of the return-to-go g_t; not tied to sac.discount [ours]
    weight_norm: Literal["minmax", "maxabs"] = "minmax"  # RALW's normalisation to [-1, 1]
    # The ablations of Table 5 [COVR]
    filter: Literal["eddf", "random", "top", "none"] = "eddf"  # random: as many as EDDF keeps (M1); top: M2 to M4
    top_percentile: float = 80.0  # `top` keeps scores from this percentile on [COVR: 80, 90, 95]
    z_score: bool = True  # False: Eq. 5 on returns as they are (M5)
    score: Literal["return", "reward", "q_value"] = "return"  # what filter and weights go by (M6, M7)
    weights: Literal["ralw", "uniform", "random"] = "ralw"  # of the token losses (M8, M9)


@dataclass(frozen=True)
class VLMConfig:
    """The vision-language model, how it is asked and tuned."""

    # `tiny`, `fake` (no model at all), `none`, a path or a hub id (@revision) [COVR: Qwen2.5-VL-3B]
    name: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    # sync: the learner waits, errors end the run; async: a thread; process: a child with memory of its own. In the last
    # two the VLM may be late, hang or die, and learning goes on unguided [ours; the paper's is sync]
    mode: Literal["sync", "async", "process"] = "sync"
    deadline_s: float = 0.0  # async, process: longest wait of the learner per chunk; later answers are attached late
    hang_s: float = 600.0  # async, process: silence after which a VLM with work to do counts as hung
    restarts: int = 5  # async, process: attempts after failures, with growing pauses, before it is given up
    record: bool = False  # write every answer to vlm/answers.jsonl in the run directory
    replay: str | None = None  # such a file, played back instead of any VLM
    # The answer follows the action grammar and always parses, or it is free text that is parsed where possible [ours]
    decoding: Literal["constrained", "free"] = "constrained"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # Torch's; auto: the GPU where Torch has one
    gpu_share: float = 0.5  # of a GPU's memory that Torch may take; JAX gets the rest [ours]
    every: int = 10  # agent steps between two queries [COVR: 10 frames]
    # Share of a chunk's frames asked about, those of highest policy entropy, and one at least [ours; COVR: all]
    ask_share: float = 1.0
    frames: int = 1  # newest frames of the observation that a question shows, oldest first [ours; COVR: 1]
    hold: bool = True  # store the last answer with the steps until the next query; False: mask those steps
    image_size: int | None = None  # VLM input height = width; None: 84 for `tiny`, 336 for LLaVA, else 224 [ours]
    lora_rank: int | None = None  # None here and below: the paper's value, or what fits `tiny` [COVR: 128]
    lora_alpha: float | None = None  # [COVR: 16 DMControl, 256 CARLA]
    lora_dropout: float | None = None  # [RL4VLM: 0.05]
    lora_targets: Literal["all-linear", "language", "paper_826"] = "all-linear"  # 8.10%, 6.00%, 8.26% of a 3B model
    learning_rate: float | None = None  # AdamW [ours: 1e-4]
    batch_size: int | None = None  # samples per optimiser step [ours: 16]
    micro_batch: int | None = None  # samples per forward pass of a step, which they do not change; None: all at once
    warmup: float | None = None  # share of a round's steps with rising learning rate [ours: 0.03]
    label_smoothing: float | None = None  # [ours: 0.1]
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the frozen weights; auto: float32 for `tiny` and on CPU
    checkpointing: bool = False  # recompute activations when fine-tuning: less memory, more time
    max_samples: int = 4096  # training samples per round after EDDF [ours]
    steps: int | None = None  # optimiser steps per round; None: one epoch [ours]
    held_out: int = 64  # kept samples per round that measure the action error and are not trained on [ours]
    return_episodes: int = 0  # episodes that measure the VLM alone before training and after each round; 0: none


@dataclass(frozen=True)
class CarlaConfig:
    """The CARLA tasks' simulator and rules."""

    # `loopback`: servers of our own for each environment, our roads and pictures; host:port: a real server that runs
    # already, those of further environments on port + 3, + 6, ...
    endpoint: str = "loopback"
    profile: Literal["dmr", "dbc"] = "dmr"  # reward, cameras, rules: of DMR (frame skip 1) or DBC and ResAct (4)


@dataclass(frozen=True)
class VPFConfig:
    """Method vpf: the VLM itself acts and is trained by PPO on its answers' log-probabilities."""

    steps: int = 512  # agent steps per iteration, over all environments [RL4VLM]
    epochs: int = 4  # passes over them [RL4VLM]
    minibatch: int = 128  # agent steps per optimiser step [RL4VLM: gradient accumulation 128]
    forward_batch: int = 32  # frames per forward pass, which changes memory only [ours]
    clip: float = 0.1  # of the probability ratio and of the value's change [RL4VLM]
    discount: float = 0.9  # [RL4VLM]
    gae_decay: float = 0.95  # lambda [RL4VLM]
    value_weight: float = 0.5  # [RL4VLM]
    entropy_weight: float = 0.01  # [RL4VLM]
    max_grad_norm: float = 0.01  # [RL4VLM]
    temperature: float = 0.2  # of sampling, in [0.01, 10]; evaluations are greedy [RL4VLM]
    learning_rate: float = 1e-5  # at first, of adapter and value head [RL4VLM]
    final_learning_rate: float = 1e-9  # after a cosine [RL4VLM]
    anneal_iterations: int = 25  # length of the cosine [RL4VLM]
    value_hidden: tuple[int, ...] = (1024, 512)  # layers of the value head on the last hidden state [RL4VLM]


@dataclass(frozen=True)
class EvalConfig:
    """Evaluations during training."""

    every: int = 10_000  # env steps between evaluations [PlaNet benchmark]
    episodes: int = 10  # [COVR]
    distractors: Distractors | None = None  # None: as in training


@dataclass(frozen=True)
class RunConfig:
    """What a run writes and when."""

    checkpoint_every: int = 20_000  # env steps between checkpoints
    log_every: int = 1_000  # env steps between metric rows
    video: bool = True  # record one episode of the final policy
    resume: bool = True  # False: refuse a run directory that already holds a checkpoint


@dataclass(frozen=True)
class Config:
    """One run. ``method`` names what is trained, ``base`` the agent that a guided method is plugged into.

    In `vbe` the untuned VLM acts and nothing is trained, in `vpf` it acts and is trained by PPO.
    """

    task: str = "cartpole_swingup"
    # covr: as in the paper; dpl: the VLM stays as it is, constant weight; apl: likewise, weight annealed to 0
    method: Guided | VLMPolicyMethod | MapMethod | Agent = "covr"
    base: Agent = "rad"
    seed: int = 1
    total_steps: int = 100_000  # env steps [COVR]
    preset: str = "paper"
    renderer: Literal["jax", "warp", "gl"] = "jax"  # warp: mjx.render on Warp; gl: MuJoCo's OpenGL on the host
    env: EnvConfig = field(default_factory=EnvConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sac: SACConfig = field(default_factory=SACConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    covr: CovrConfig = field(default_factory=CovrConfig)
    vlm: VLMConfig = field(default_factory=VLMConfig)
    carla: CarlaConfig = field(default_factory=CarlaConfig)
    vpf: VPFConfig = field(default_factory=VPFConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def guidance_weight(self) -> float:
        """Lambda of Eq. 4: as given, or the paper's for the task."""
        return value_or(self.covr.guidance_weight, 2.0 if self.task.startswith("carla_") else 1.0)

    @property
    def cold_start_rounds(self) -> int:
        """Rounds before the guidance opens: as given, or the paper's for the task."""
        return int(value_or(self.covr.cold_start_rounds, 2 if self.task.startswith("carla_") else 4))


def value_or(value: float | None, default: float) -> float:
    """The value, or the default where it is None."""
    return default if value is None else value


def agent(config: Config) -> str:
    """The agent that acts and learns: ``base`` where a VLM guides it, else the method itself."""
    return config.base if config.method in ON_BASE else config.method


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain dict, as written to config.json."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of ``to_dict``. Raises ConfigError for an unknown or missing field."""
    return _build(Config, values, "")


def _build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"unknown option {prefix}{unknown[0]} in config.json")
    missing = sorted(set(known) - set(values))
    if missing:
        raise ConfigError(f"missing option {prefix}{missing[0]} in config.json")
    arguments = {}
    for name, value in values.items():
        factory = known[name].default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            value = _build(factory, value, f"{prefix}{name}.")
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return kind(**arguments)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Leaves in which two ``to_dict`` results differ, as ``name: old -> new``."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{name}.")
        elif (list(before) if isinstance(before, tuple) else before) != (
            list(after) if isinstance(after, tuple) else after
        ):
            lines.append(f"{prefix}{name}: {before} -> {after}")
    return lines
