"""Prompts of the VLM, per task, in our own wording. No Torch.

The VLM learns how to act by fine-tuning; the prompt only names the scene, the joints and the format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Prompt(NamedTuple):
    """Text of a prompt about one or several frames; the model's chat template places the frames."""

    system: str
    user: str

    @property
    def digest(self) -> str:
        """Short hash of the text, stored with results to detect changed wording."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:12]


def chat_messages(prompt: Prompt, images: Sequence[Mapping[str, Any]], *, system_role: bool) -> list[dict[str, Any]]:
    """Returns a prompt about images as the messages of a chat.

    Args:
      prompt: text; an empty system part is left out.
      images: a content part per frame, oldest first, as a model's chat template or a server's interface has it.
      system_role: whether the model's chat template has a system turn; else its text is put before the user's.
    """
    system, user = prompt
    if system and not system_role:
        system, user = "", f"{system}\n{user}"
    messages: list[dict[str, Any]] = []
    if system:
        messages.append({"role": "system", "content": [{"type": "text", "text": system}]})
    return [*messages, {"role": "user", "content": [*images, {"type": "text", "text": user}]}]


class _Task(NamedTuple):
    """Wording of a task of the DeepMind Control Suite."""

    body: str  # what is controlled
    goal: str
    joints: tuple[str, ...]  # one entry per action component, in actuator order
    positive: str | None = None  # how a positive torque turns what hangs on a joint, as camera 0 sees it


_WALKER = ("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle")
_TASKS = {
    "cartpole_swingup": _Task(
        "a cart on a rail with a pole hinged to it",
        "swing the pole up and keep it upright with the cart near the middle of the rail",
        ("force on the cart, negative pushes left and positive pushes right",),
    ),
    "reacher_easy": _Task(
        "a two-link arm seen from above",
        "bring the finger tip onto the target ball",
        ("shoulder", "wrist"),
        "counter-clockwise",
    ),
    "cheetah_run": _Task(
        "a planar two-legged cheetah",
        "run to the right as fast as possible",
        ("back thigh", "back shin", "back foot", "front thigh", "front shin", "front foot"),
        "clockwise",
    ),
    "walker_walk": _Task(
        "a planar two-legged walker", "stand tall and walk forward at a steady pace", _WALKER, "counter-clockwise"
    ),
    "walker_run": _Task(
        "a planar two-legged walker", "stand tall and run forward as fast as possible", _WALKER, "counter-clockwise"
    ),
    "finger_spin": _Task(
        "a two-joint finger next to a hinged body",
        "keep flicking the body so that it spins fast",
        ("proximal joint", "distal joint"),
        "counter-clockwise",
    ),
    "ball_in_cup_catch": _Task(
        "a cup with a ball on a string",
        "swing the ball up and catch it in the cup",
        (
            "sideways force on the cup, negative pushes left and positive pushes right",
            "vertical force on the cup, negative pushes down and positive pushes up",
        ),
    ),
    "hopper_hop": _Task("a planar one-legged hopper", "hop forward", ("waist", "hip", "knee", "ankle"), "clockwise"),
    "pendulum_swingup": _Task(
        "a pendulum on a weak motor", "swing the pendulum up and hold it upright", ("torque on the pole",), "clockwise"
    ),
}
SUITE = tuple(_TASKS)  # the tasks of DMControl


class _Drive(NamedTuple):
    """Wording of a driving task; the system text opens as in the paper's Figure 2."""

    scene: str
    goal: str
    controls: tuple[str, ...]


_CAR = ("steer, negative is left and positive is right", "throttle, negative brakes and positive accelerates")
_DRIVES = {
    "carla_highway": _Drive(
        "The scene where ego is located is a high-speed scene: a highway with other vehicles ahead.",
        "drive as far as possible, keep to the road and avoid collisions",
        _CAR,
    ),
    "carla_ghost_pedestrian": _Drive(
        "The scene where ego is located is an urban road with parked vehicles; pedestrians may step out behind them.",
        "drive as far as possible, keep to the road and hit nobody",
        _CAR,
    ),
    "car_racing": _Drive(
        "The image shows a race car and its track from above; the car points upwards.",
        "drive along the grey track as fast as possible without leaving it",
        (_CAR[0], "gas, -1 is none and 1 is full", "brake, -1 is none and 1 is full"),
    ),
}
TASKS = (*SUITE, *_DRIVES)

# Captions of what a referring-segmentation model is to find.
_CATEGORIES = {
    "cartpole_swingup": ("a pole on a cart", "a pole", "a cart on a rail"),
    "reacher_easy": ("a two-link robot arm", "a red target ball"),
    "cheetah_run": ("a running cheetah robot", "the legs of a robot"),
    "walker_walk": ("a walking robot", "the legs of a robot"),
    "walker_run": ("a running robot", "the legs of a robot"),
    "finger_spin": ("a robot finger", "a spinning body on a hinge"),
    "ball_in_cup_catch": ("a ball on a string", "a cup"),
    "hopper_hop": ("a hopping one-legged robot", "the leg of a robot"),
    "pendulum_swingup": ("a pendulum", "a pole on a hinge"),
    "carla_highway": ("cars on a highway", "the road"),
    "carla_ghost_pedestrian": ("a pedestrian on the road", "parked cars", "the road"),
    "car_racing": ("a race car", "a grey race track"),
}


def categories_for(task: str) -> tuple[str, ...]:
    """Returns captions of what matters in the images of a task. Raises ValueError for an unknown task."""
    _lookup(task)
    return _CATEGORIES[task]


def prompt_for(task: str, action_dim: int, frames: int = 1) -> Prompt:
    """Returns the prompt of a task.

    Args:
      task: one of ``TASKS``.
      action_dim: number of action components, each in [-1, 1].
      frames: number of frames; several frames are explained first.

    Raises:
      ValueError: for an unknown task, or an action size that does not fit the task.
    """
    entry = _lookup(task)
    parts = entry.controls if isinstance(entry, _Drive) else entry.joints
    if action_dim != len(parts):
        raise ValueError(f"{task} has {len(parts)} action components, not {action_dim}")
    slots = ", ".join(f"a{i + 1}" for i in range(action_dim))
    components = "; ".join(f"a{i + 1} = {part}" for i, part in enumerate(parts))
    if isinstance(entry, _Task) and entry.positive:
        negative = {"clockwise": "counter-clockwise", "counter-clockwise": "clockwise"}[entry.positive]
        components += f". Seen in the image, positive values turn {entry.positive} and negative ones {negative}"
    if isinstance(entry, _Drive):
        role, scene = "You are an AI assistant in an autonomous driving car and see what its camera sees.", entry.scene
    else:
        role = "You are an AI assistant that controls a simulated body from camera images."
        scene = f"The image shows {entry.body}."
    if frames > 1:
        order = f"These are {frames} images, one time step apart, the oldest first; the last one shows the present."
        scene = f"{order} {scene.replace('The image', 'Each image', 1)}"
    system = (
        f"{role} Answer with one line only: Action: [{slots}], every value with two decimals, between -1.00 and 1.00."
    )
    user = f"{scene} Goal: {entry.goal}. Action components: {components}. What is the next action?"
    return Prompt(system, user)


def short_prompt_for(task: str, action_dim: int) -> Prompt:
    """Returns the prompt in the vocabulary of the tiny models: for tasks of the suite, domain and verb.

    It does not explain several frames; their order shows in their positions.

    Raises:
      ValueError: as ``prompt_for``.
    """
    prompt_for(task, action_dim)
    return Prompt("", " ".join(split_task(task)) if task in SUITE else "question")


def split_task(task: str) -> tuple[str, str]:
    """Splits a task name into domain and verb: ``ball_in_cup_catch`` -> ("ball_in_cup", "catch")."""
    domain, _, verb = task.rpartition("_")
    return domain, verb


def _lookup(task: str) -> _Task | _Drive:
    if task not in TASKS:
        raise ValueError(f"no prompt for task {task!r}; known: {', '.join(TASKS)}")
    return _TASKS[task] if task in SUITE else _DRIVES[task]
