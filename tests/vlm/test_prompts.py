import numpy as np
import pytest

from covr_jax.vlm.prompts import SUITE, TASKS, prompt_for, short_prompt_for

ACTIONS = {
    "cartpole_swingup": 1, "reacher_easy": 2, "cheetah_run": 6, "walker_walk": 6, "finger_spin": 2,
    "ball_in_cup_catch": 2, "hopper_hop": 4, "walker_run": 6, "pendulum_swingup": 1, "car_racing": 3,
    "carla_highway": 2, "carla_ghost_pedestrian": 2,
}  # fmt: skip


def test_the_tasks():
    assert set(TASKS) == set(ACTIONS) == {*SUITE, "car_racing", "carla_highway", "carla_ghost_pedestrian"}
    assert len(SUITE) == 9


@pytest.mark.parametrize(("task", "action_dim"), ACTIONS.items())
def test_prompt_states_the_format_with_one_slot_per_component(task, action_dim):
    prompt = prompt_for(task, action_dim)
    slots = ", ".join(f"a{i + 1}" for i in range(action_dim))
    assert f"Action: [{slots}]" in prompt.system and f"a{action_dim} = " in prompt.user
    assert f"a{action_dim + 1}" not in prompt.system + prompt.user


@pytest.mark.parametrize("task", SUITE)
def test_the_prompt_says_what_a_positive_action_does(task):
    """Against the model: the axis of each motor, in the directions of camera 0."""
    mujoco, envs = pytest.importorskip("mujoco"), pytest.importorskip("covr_jax.envs")
    model = envs.get_task(task).load_model()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    right, up, towards = data.cam_xmat[0].reshape(3, 3).T
    user = prompt_for(task, ACTIONS[task]).user
    parts = user.split("Action components: ")[1].split("; ")
    assert len(parts) == model.nu
    for motor, part in enumerate(parts):
        joint = model.actuator_trnid[motor, 0]
        axis = data.xaxis[joint] * np.sign(model.actuator_gear[motor, 0])
        if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE:
            turn = "counter-clockwise" if axis @ towards > 0.5 else "clockwise"
            assert abs(axis @ towards) > 0.5 and f"positive values turn {turn} and" in user
        else:
            move = "right" if axis @ right > 0.8 else "up"
            assert max(axis @ right, axis @ up) > 0.8 and f"positive pushes {move}" in part


def test_driving_prompts_say_what_the_signs_mean():
    for task in ("carla_highway", "carla_ghost_pedestrian", "car_racing"):
        assert "negative is left and positive is right" in prompt_for(task, ACTIONS[task]).user


def test_prompts_and_digests_differ():
    assert len({prompt_for(t, a) for t, a in ACTIONS.items()}) == 12
    assert len({prompt_for(t, a).digest for t, a in ACTIONS.items()}) == 12
    # A run has one task: those whose words the tiny model does not know share a question.
    assert len({short_prompt_for(t, a) for t, a in ACTIONS.items()}) == 10


@pytest.mark.parametrize(("task", "action_dim"), ACTIONS.items())
def test_several_frames_are_announced_and_one_is_not(task, action_dim):
    one, three = prompt_for(task, action_dim), prompt_for(task, action_dim, 3)
    assert prompt_for(task, action_dim, 1) == one and three.system == one.system and three.digest != one.digest
    opening = "These are 3 images, one time step apart, the oldest first; the last one shows the present. "
    assert three.user == opening + one.user.replace("The image", "Each image") and "images" not in one.user


@pytest.mark.parametrize(("task", "action_dim"), [("dog_run", 2), ("", 1), ("cartpole_swingup", 2)])
def test_errors_are_one_line(task, action_dim):
    for make in (prompt_for, short_prompt_for):
        with pytest.raises(ValueError) as error:
            make(task, action_dim)
        assert "\n" not in str(error.value)


def test_tiny_vocabulary_knows_every_word():
    pytest.importorskip("transformers")
    from covr_jax.vlm.models.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    for task, action_dim in ACTIONS.items():
        ids = tokenizer.encode(short_prompt_for(task, action_dim).user, add_special_tokens=False)
        assert len(ids) == (2 if task in SUITE else 1) and tokenizer.unk_token_id not in ids


def test_driving_prompts_open_as_in_the_papers_figure():
    highway, ghost = (prompt_for(f"carla_{name}", 2) for name in ("highway", "ghost_pedestrian"))
    assert highway.system == ghost.system
    assert highway.system.startswith("You are an AI assistant in an autonomous driving car")
    assert highway.user.startswith("The scene where ego is located is a high-speed scene")
    assert "pedestrians may step out" in ghost.user
