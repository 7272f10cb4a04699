"""What will take long is said before it does."""

from covr_jax.training.estimate import Estimate


def said(steps, seconds):
    """What is said of steps that begin at these times."""
    messages, times = [], iter(seconds)
    estimate = Estimate("answers", steps, messages.append, lambda: next(times))
    for _ in range(4):
        estimate.step()
    return messages


def test_the_second_step_is_timed_and_said_once():
    # 10 agent steps a second would be 1,000 s of 10,000; here each takes 11.6 s, and two are over: 9,998 x 11.6 s.
    assert said(10_000, [50.0, 61.6]) == ["answers: about 32 h 13 min, 10,000 queries of 12 s each"]


def test_what_is_short_needs_no_announcement():
    assert said(1_000, [50.0, 50.2]) == []
    assert said(1_000, [50.0, 50.31]) == ["answers: about 5 min, 1,000 queries of 0.31 s each"]
