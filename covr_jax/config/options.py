"""Options of a run: a tree of frozen dataclasses whose defaults are the paper's.

``commands.cli`` parses the tree from the command line, where the comment of a field is its help text; library code
receives the part that it needs. A comment gives the meaning, the unit and, in brackets, the source of the default:
[COVR] the paper; [RAD], [PlaNet], [SAC-AE] and others the publications that its tables build on; [ours] a choice of
this project where the paper is silent. Bounds of a single option stand in its annotation and are checked by
``validate``.

None means "decided elsewhere": ``training.resolve`` replaces it by the value of the task, the method or the kind of
VLM, and config.json holds the result. Where it stays None, the comment says so.

Env steps = agent steps x action repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from covr_jax.config.kinds import (
    ON_BASE,
    Agent,
    Count,
    Distractors,
    Fraction,
    Guided,
    LogSink,
    MapMethod,
    NonNegative,
    PhysicsEngine,
    Positive,
    PositiveInt,
    Rate,
    RendererName,
    Seed,
    VLMPolicyMethod,
)
from covr_jax.config.learner import AugmentConfig, ReplayConfig, SACConfig


@dataclass(frozen=True)
class EnvConfig:
    """Environments and their images."""

    num_envs: PositiveInt = 1  # environments stepped in parallel [COVR]
    action_repeat: PositiveInt | None = None  # control steps per agent step; None: the task's [PlaNet]
    frame_stack: PositiveInt = 3  # frames per observation [SAC-AE]
    image_size: PositiveInt = 100  # rendered height = width, pixels [RAD: 100, augmented to 108]
    samples: int = 4  # visibility rays per pixel: 1, 2 or 4 [MuJoCo]
    distractors: Distractors = "none"  # visual changes drawn anew for each episode
    # Engine of the DMControl tasks: MJX inside of compiled programs, MJX's kernels on NVIDIA Warp, or C MuJoCo on the
    # host. auto: what the run directory records, or else MuJoCo where JAX runs on CPUs and MJX elsewhere [ours]
    physics: PhysicsEngine = "auto"


@dataclass(frozen=True)
class CovrConfig:
    """Rounds, filter, weights and guidance of COVR."""

    guidance_weight: NonNegative | None = None  # lambda of Eq. 4; None: the task's [COVR: 1.0, CARLA 2.0]
    # Mean of Eq. 4 over all rows of a batch (those without a_v count 0), or over the rows with a valid a_v [ours]
    guidance_mean: Literal["batch", "valid"] = "batch"
    psi_0: PositiveInt = 5000  # first fine-tuning interval, env steps [COVR]
    schedule: Literal["linear", "recursive"] = "linear"  # reading of the interval rule [ours]
    anneal_steps: PositiveInt = 100_000  # env steps until the guidance of `apl` is 0 [ours]
    cold_start_rounds: Count | None = None  # rounds before the guidance starts; None: the task's [COVR: 4, CARLA 2]
    exploration: Literal["neg_entropy", "literal", "normalised", "progress"] = "neg_entropy"  # eps of Eq. 5 [ours]
    entropy_samples: PositiveInt = 1024  # observations of D_f in the entropy estimate [ours]
    min_keep: Count = 64  # fewest samples that EDDF keeps [ours]
    return_discount: Fraction = 0.99  # gamma of the return-to-go g_t, apart from sac.discount [ours]
    # Return-to-go at a time limit: ends there, as the paper has it, or goes on with the critic's value [COVR: terminal]
    truncation: Literal["terminal", "bootstrap"] = "terminal"
    weight_norm: Literal["minmax", "maxabs", "rank"] = "minmax"  # how returns are brought to [-1, 1] in RALW [ours]
    # Filter of Table 5; random: as many as EDDF keeps (M1); top: the best (M2 to M4) [COVR: eddf]
    filter: Literal["eddf", "random", "top", "none"] = "eddf"
    # Percentile of the scores from which filter `top` keeps samples [COVR: 80, 90, 95]
    top_percentile: Annotated[float, Interval(ge=0, le=100)] = 80.0
    z_score: bool = True  # standardise the returns of Eq. 5; off: M5 of Table 5 [COVR]
    score: Literal["return", "reward", "q_value"] = "return"  # input of filter and weights; others: M6, M7 [COVR]
    weights: Literal["ralw", "uniform", "random"] = "ralw"  # weights of the token losses; others: M8, M9 [COVR]


@dataclass(frozen=True)
class VLMConfig:
    """The vision-language model, its queries and its fine-tuning."""

    # `tiny`, `fake` (no model), `none`, a path or a hub id (@revision) [COVR: Qwen2.5-VL-3B]
    name: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    # sync: the learner waits and errors end the run; async: a thread; process: a child process; vllm: a thread that
    # asks the vLLM server at `endpoint`, and fine-tunes here; ray: a Ray actor, here or in the cluster at `endpoint`.
    # In all but sync the VLM may be late, hang or crash, and learning goes on unguided [COVR: sync]
    mode: Literal["sync", "async", "process", "vllm", "ray"] = "sync"
    # vllm: address of the server, such as http://localhost:8000; its key is in COVR_VLLM_API_KEY. ray: address of the
    # cluster, such as auto or 10.0.0.10:6379. None: no server; Ray is started on this machine
    endpoint: str | None = None
    # Not sync: longest wait of the learner per chunk, seconds; later answers are stored when they come [ours]
    deadline_s: NonNegative = 0.0
    # Not sync: seconds without a sign of work (a layer computed, an answer of the server) after which a VLM counts as
    # hung [ours]
    hang_s: Positive = 600.0
    # Not sync: restarts after failures, with growing pauses, before the VLM is given up; a vLLM server never is [ours]
    restarts: Count = 5
    record: bool = False  # write every answer to vlm/answers.jsonl in the run directory
    replay: str | None = None  # file of recorded answers, played back instead of any VLM; None: no recording
    # constrained: an answer follows the action grammar; free: text that is parsed where possible [ours]
    decoding: Literal["constrained", "free"] = "constrained"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # Torch's device; auto: the GPU where Torch has one
    # Share of a GPU's memory that Torch may take; JAX gets the rest. None (stays): what the model needs to answer and
    # to be fine-tuned by passes of few samples [ours]
    gpu_share: Annotated[float, Interval(gt=0, lt=1)] | None = None
    every: PositiveInt = 10  # agent steps between two queries [COVR: 10 frames]
    # Share of a chunk's query slots that is queried, those of highest policy entropy, one at least [COVR: all]
    ask_share: Annotated[float, Interval(gt=0, le=1)] = 1.0
    frames: PositiveInt = 1  # newest frames of an observation in a query, oldest first [COVR]
    hold: bool = True  # store an answer with all steps until the next query; off: mask those steps [ours]
    # Input height = width, pixels [ours]. None: 84 for the tiny models, by hub id 224 for Qwen, 336 for LLaVA and 448
    # for InternVL; stays None for other names and for dgc_like, whose model decides when it is loaded
    image_size: PositiveInt | None = None
    lora_rank: PositiveInt | None = None  # None: 128 [COVR], or 16 for the tiny models [ours]
    lora_alpha: Positive | None = None  # None: the task's [COVR: 16, CARLA 256], or 64 for the tiny models [ours]
    lora_dropout: Fraction | None = None  # None: 0.05 [RL4VLM], or 0 for the tiny models [ours]
    adapter: str | None = None  # directory of a LoRA adapter to start from, as peft writes it; None: a new one [COVR]
    # Adapted layers [ours]: 8.10%, 6.00%, 8.26% of the weights of a 3B model
    lora_targets: Literal["all-linear", "language", "paper_826"] = "all-linear"
    learning_rate: Rate | None = None  # AdamW's; None: 1e-4, or 2e-3 for the tiny models [ours]
    batch_size: PositiveInt | None = None  # samples per optimiser step; None: 16, or 32 for the tiny models [ours]
    # Samples per forward pass, which changes memory only. None: of a tiny model batch_size, of others what the free
    # memory holds when a round starts, and less where it runs out in the round
    micro_batch: PositiveInt | None = None
    # Share of a round's steps with rising learning rate; None: 0.03, or 0.05 for the tiny models [ours]
    warmup: Fraction | None = None
    label_smoothing: Fraction | None = None  # of the token losses; None: 0.1, or 0 for the tiny models [ours]
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # frozen weights; auto: float32 for `tiny` and on CPUs
    checkpointing: bool = False  # recompute activations in fine-tuning: less memory, more time
    max_samples: PositiveInt = 4096  # training samples per round after EDDF [ours]
    steps: PositiveInt | None = None  # optimiser steps per round; None (stays): one epoch of the round's samples [ours]
    held_out: Count = 64  # kept samples per round that measure the action error and are not trained on [ours]
    return_episodes: Count = 0  # episodes that measure the VLM alone, at first and after each round; 0: none [ours]
    # File of an expert's states and actions, as `evaluate.py --states` writes it, on which the VLM is measured at first
    # and after each round; None: not [ours]
    expert_states: str | None = None


@dataclass(frozen=True)
class CarlaConfig:
    """Simulator and rules of the CARLA tasks."""

    # `loopback`: the package's own test server, with its own roads and images; host:port,host:port,...: running CARLA
    # servers, which the environments take turns at; further ones on port + 3, + 6, ...
    endpoint: str = "loopback"
    profile: Literal["dmr", "dbc"] = "dmr"  # reward, cameras and rules of DMR (frame skip 1) or of DBC and ResAct (4)


@dataclass(frozen=True)
class VPFConfig:
    """Method vpf: the VLM acts and is trained by PPO on the log-probabilities of its answers."""

    steps: PositiveInt = 512  # agent steps per iteration, over all environments [RL4VLM]
    epochs: PositiveInt = 4  # passes over the steps of an iteration [RL4VLM]
    minibatch: PositiveInt = 128  # agent steps per optimiser step [RL4VLM: gradient accumulation 128]
    forward_batch: PositiveInt = 32  # frames per forward pass, which changes memory only [ours]
    clip: Fraction = 0.1  # of the probability ratio and of the value's change [RL4VLM]
    discount: Fraction = 0.9  # of rewards, per agent step [RL4VLM]
    gae_decay: Fraction = 0.95  # lambda of GAE [RL4VLM]
    value_weight: NonNegative = 0.5  # weight of the value loss [RL4VLM]
    entropy_weight: NonNegative = 0.0  # weight of the entropy bonus [RL4VLM: none in its loss]
    max_grad_norm: NonNegative = 0.01  # norm to which gradients are clipped [RL4VLM]
    # Temperature of sampling; evaluations are greedy [RL4VLM]
    temperature: Annotated[float, Interval(ge=0.01, le=10)] = 0.2
    learning_rate: Rate = 1e-5  # Adam's first, of adapter and value head [RL4VLM]
    final_learning_rate: Rate = 1e-9  # Adam's at the end of its cosine schedule [RL4VLM]
    # Length of the cosine schedule, iterations; None: those of the run [RL4VLM: 25, of 29]
    anneal_iterations: PositiveInt | None = None
    value_hidden: tuple[int, ...] = (1024, 512)  # layers of the value head on the last hidden state, units [RL4VLM]


@dataclass(frozen=True)
class EvalConfig:
    """Evaluations during training."""

    every: PositiveInt = 10_000  # env steps between evaluations [PlaNet]
    episodes: PositiveInt = 10  # episodes per evaluation [COVR]
    distractors: Distractors | None = None  # visual changes; None: those of training


@dataclass(frozen=True)
class RunConfig:
    """Output of a run."""

    checkpoint_every: PositiveInt = 20_000  # env steps between checkpoints
    # devices that one run is split over, the environments and the batch by equal parts; short form --devices
    devices: PositiveInt = 1
    # seeds that are trained together in one program, from `seed` on, each in a run directory of its own; short form
    # --num-seeds. Physics auto is MJX for several seeds
    num_seeds: PositiveInt = 1
    log: tuple[LogSink, ...] = ("tensorboard",)  # where metrics go beside metrics.jsonl; short form --log
    log_every: PositiveInt = 1_000  # env steps between metric rows
    video: bool = True  # record one episode of the final policy
    resume: bool = True  # off: refuse a run directory that already holds a checkpoint


@dataclass(frozen=True)
class Config:
    """One run. ``method`` names what is trained, ``base`` the agent that a guided method is added to.

    In `vbe` the untuned VLM acts and nothing is trained, in `vpf` it acts and is trained by PPO.
    """

    task: str = "cartpole_swingup"  # name in the task registry
    # covr: as in the paper; dpl: frozen VLM, constant guidance weight; apl: frozen VLM, weight annealed to 0
    method: Guided | VLMPolicyMethod | MapMethod | Agent = "covr"
    base: Agent = "rad"  # agent of a guided method [COVR]
    seed: Seed = 1  # of all random streams
    total_steps: PositiveInt = 100_000  # env steps of training [COVR]
    preset: str = "paper"  # name of the preset that gave the defaults
    renderer: RendererName = "jax"  # the package's own, mjx.render on Warp, or MuJoCo's OpenGL
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


def agent(config: Config) -> str:
    """Returns the agent that acts and learns: ``base`` where a VLM guides it, else the method itself."""
    return config.base if config.method in ON_BASE else config.method
