"""Options of the learner, its images and its replay; see ``options`` for how to read their comments."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from annotated_types import Interval

from covr_jax.config.kinds import Count, Finite, Fraction, NonNegative, Positive, PositiveInt, Rate, Storage

T = TypeVar("T")


def value_or(value: T | None, default: T) -> T:
    """Returns the value, or the default where it is None."""
    return default if value is None else value


def required(value: T | None) -> T:
    """Returns an option that is never None in a resolved config.

    Raises:
      ValueError: it is None; the config has not been resolved.
    """
    if value is None:
        raise ValueError("an option is None: pass the config through training.resolve first")
    return value


@dataclass(frozen=True)
class SACConfig:
    """The learner."""

    batch_size: PositiveInt = 128  # transitions per update [RAD]
    updates_per_step: PositiveInt = 1  # gradient updates per agent step of all environments [SAC-AE: 1 at num_envs=1]
    steps_per_update: PositiveInt = 1  # agent steps from one set of updates to the next [SAC-AE; DrQ-v2: 2]
    init_steps: PositiveInt = 1000  # transitions with random actions before the first update [SAC-AE]
    catch_up_updates: Count = 0  # updates on those transitions when learning starts [RAD: 0; SAC-AE, DBC, DMC-GB: 1000]
    discount: Fraction = 0.99  # of rewards, per agent step [SAC-AE]
    n_step: PositiveInt = 1  # rewards summed before the target bootstraps [SAC-AE]
    learning_rate: Rate | None = None  # Adam's, of actor, critic and encoder; None: the task's [PlaNet]
    # Adam's, of losses beside SAC's; None: learning_rate [ours; DeepMDP, CURL: 1e-3]
    auxiliary_learning_rate: Rate | None = None
    auxiliary_encoder_scale: NonNegative = 1.0  # factor of that rate for the encoder [ours; CURL: 2, SPR: 3]
    auxiliary_warmup: Count = 0  # updates over which that rate rises; then it falls as 1/sqrt; 0: constant [MLR: 6000]
    auxiliary_clip_norm: Positive | None = None  # norm to which its gradients are clipped; stays None: not [MLR: 10]
    critic_clip_norm: Positive | None = None  # the same for the critic's gradients; stays None: not [MR.Q: 20]
    # Rate of the EMA of encoder and heads that spr and mlr predict, per target update; None: encoder_tau [MLR: 0.05]
    auxiliary_tau: Fraction | None = None
    weight_decay: NonNegative = 0.0  # AdamW's, of actor, critic, encoder and losses beside SAC's; 0: Adam [MR.Q: 1e-4]
    alpha_learning_rate: Rate = 1e-4  # Adam's, of the temperature [SAC-AE]
    alpha_beta1: Annotated[float, Interval(ge=0, lt=1)] = 0.5  # Adam's beta1 for the temperature [SAC-AE]
    init_temperature: Positive = 0.1  # temperature of the entropy before the first update [SAC-AE]
    critic_tau: Fraction = 0.01  # rate of the target EMA of the Q heads, per target update [SAC-AE]
    encoder_tau: Fraction = 0.05  # rate of the target EMA of the encoder, per target update [SAC-AE]
    torso_tau: Fraction | None = None  # the same for the convolutions; None: encoder_tau [SAC-AE; DrQ-v2: 1, no target]
    target_period: PositiveInt = 250  # method mrq: updates between two copies of all parameters into targets [MR.Q]
    noise_start: NonNegative = 1.0  # first standard deviation of a deterministic policy's exploration noise [DrQ-v2]
    noise_end: NonNegative = 0.1  # last standard deviation of that noise [DrQ-v2]
    noise_steps: PositiveInt = 100_000  # agent steps from the first to the last, linearly [DrQ-v2: easy tasks]
    actor_update_every: PositiveInt = 2  # critic updates per update of actor, temperature and targets [SAC-AE]
    hidden_dim: PositiveInt = 1024  # units per hidden layer of actor and critic [SAC-AE]
    feature_dim: PositiveInt = 50  # features that the encoder computes per observation [SAC-AE]
    num_filters: PositiveInt = 32  # channels of each convolution [SAC-AE]
    conv_filters: tuple[int, ...] | None = None  # channels by convolution; None: num_filters each [ours]
    conv_kernels: tuple[int, ...] = (3, 3, 3, 3)  # height = width of each convolution, pixels [SAC-AE]
    conv_strides: tuple[int, ...] = (2, 1, 1, 1)  # stride of each convolution, pixels [SAC-AE]
    # Input of the first convolution: the frames, or the newest frame and the changes between frames [SAC-AE: frames]
    frame_basis: Literal["frames", "differences"] = "frames"
    mask_depth: Annotated[int, Interval(ge=1, le=16)] = 8  # method mlr: steps in a row with the same mask [MLR]
    # Precision of matrix products; parameters, losses and Adam stay float32. Without support tf32 is float32 [ours]
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    # advantage: a prior guides only where the critics value it above the policy's own action [COVR: none]
    prior_gate: Literal["none", "advantage"] = "none"
    log_std_min: Finite = -10.0  # lower bound of the policy's log standard deviation [SAC-AE]
    log_std_max: Finite = 2.0  # upper bound of the policy's log standard deviation [SAC-AE]

    @property
    def filters(self) -> tuple[int, ...]:
        """Channels by convolution."""
        return self.conv_filters or (self.num_filters,) * len(self.conv_kernels)

    def resolved(self, learning_rate: float) -> SACConfig:
        """Returns a copy in which only ``conv_filters`` and the norms to which gradients are clipped may be None.

        Args:
          learning_rate: of actor, critic and encoder.
        """
        return dataclasses.replace(
            self,
            learning_rate=learning_rate,
            auxiliary_learning_rate=value_or(self.auxiliary_learning_rate, learning_rate),
            auxiliary_tau=value_or(self.auxiliary_tau, self.encoder_tau),
            torso_tau=value_or(self.torso_tau, self.encoder_tau),
        )


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the images in updates."""

    # auto: the method's own, which for rad is the task's [RAD]; resolved for methods that place images as rad does
    kind: Literal["auto", "none", "translate", "crop"] = "auto"
    # Output height = width, pixels. None: image_size * 1.08 for translate, * 0.84 for crop [RAD]; stays None elsewhere
    size: PositiveInt | None = None
    # translate: height = width of the central part that is placed, pixels, on a canvas of the images' own size; sampled
    # actions then see the images as they are. None, also its meaning: all of the image [RAD's code: 100 of 108]
    center_crop: PositiveInt | None = None


@dataclass(frozen=True)
class ReplayConfig:
    """The replay buffer."""

    capacity: PositiveInt = 100_000  # transitions of all environments together [SAC-AE]
    # prioritised: PER, or LAP; recent: ERE; elite: a share from what EDDF selects in each round, no VLM [COVR, Table 5]
    sampling: Literal["uniform", "prioritised", "recent", "elite"] = "uniform"
    priority_alpha: NonNegative = 0.6  # prioritised: exponent of the priorities [PER]
    priority_beta: NonNegative = 0.4  # prioritised: exponent of the importance weights, at first [PER]
    priority_floor: NonNegative = 0.0  # prioritised: lowest priority that counts [PER: 0; LAP: 1]
    recent_eta: Fraction = 0.996  # recent: shrink rate of the sampling window, at first [ERE]
    recent_least: PositiveInt = 5000  # recent: smallest window, transitions [ERE]
    recent_phase: PositiveInt = 1000  # recent: updates until the window is wide again [ours; ERE: those of an episode]
    # Updates over which both rise to 1, linearly; 0: they are constant; None: the updates of the run [PER, ERE]
    anneal_updates: Count | None = None
    elite_share: Fraction = 0.8  # elite: share of the batch [COVR: 0.8 and 0.5]
    storage: Storage = "device"  # memory of the frames; host: pinned host memory, for small devices [ours]
    # Minari dataset whose episodes the replay begins with, a directory or a name in Minari's store; short form
    # --demonstrations. None: it begins empty [COVR]
    demonstrations: str | None = None
