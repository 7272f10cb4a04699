"""The VLM as policy: GAE and PPO against independent formulas, log-probabilities against a plain forward pass.

N samples, T time or tokens, E envs.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from covr_jax.vlm.models.loading import tokenize_prompt  # noqa: E402
from covr_jax.vlm.ppo.gae import gae  # noqa: E402
from covr_jax.vlm.ppo.loss import ActionLogProbs, PPOOptions, learning_rate, ppo_loss  # noqa: E402
from covr_jax.vlm.ppo.policy import PPOBatch, TokenPolicy, score  # noqa: E402
from covr_jax.vlm.prompts import Prompt  # noqa: E402

RNG = np.random.default_rng(0)


# ------------------------------------------------------------------ advantages


def test_gae_by_hand():
    """gamma 0.5, lambda 0.5; the second step ends by a time limit and bootstraps from its last observation."""
    reward, value = np.array([[1.0], [2.0], [4.0]]), np.array([[0.0], [1.0], [2.0], [8.0]])
    advantage, target = gae(reward, np.array([[False], [True], [False]]), np.ones((3, 1)), value, 0.5, 0.5)
    # delta = 1 + .5 - 0, 2 + .5*2 - 1, 4 + .5*8 - 2; the trace stops after the second.
    np.testing.assert_allclose(advantage[:, 0], [1.5 + 0.25 * 2.0, 2.0, 6.0], rtol=1e-6)
    np.testing.assert_allclose(target[:, 0], [2.0, 3.0, 8.0], rtol=1e-6)


def test_gae_refuses_shapes_that_would_be_broadcast():
    reward, ends, value = np.ones((3, 2)), np.zeros((3, 2), bool), np.ones((4, 2))
    for given, said in (
        ((reward, ends[:, :1], reward, value), r"^ends must be \[3,2\], got \[3, 1\]$"),
        ((reward, ends, reward[:1], value), r"^discount must be \[3,2\], got \[1, 2\]$"),
        ((reward, ends, reward, value[:, :1]), r"^value must be \[3,2\], got \[3, 1\]$"),
        ((reward, ends, reward, reward), r"^value must be \[3,2\], got \[2, 2\]$"),
    ):
        with pytest.raises(ValueError, match=said):
            gae(*given, 0.9, 0.9)
    with pytest.raises(ValueError, match=r"^gamma and decay must lie in \[0, 1\], got 1.5 and 0.9$"):
        gae(reward, ends, reward, value, 1.5, 0.9)


def test_gae_equals_its_definition():
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, summed until the episode ends, with terminations and time limits."""
    length, num_envs, gamma, decay = 23, 4, 0.9, 0.95
    reward, value = RNG.normal(size=(length, num_envs)), RNG.normal(size=(length + 1, num_envs))
    ends = RNG.random((length, num_envs)) < 0.25
    discount = np.where(ends & (RNG.random((length, num_envs)) < 0.5), 0.0, 1.0)
    advantage, target = gae(reward, ends, discount, value, gamma, decay)
    for t in range(length):
        for e in range(num_envs):
            expected = 0.0
            for k in range(t, length):
                delta = reward[k, e] + gamma * discount[k, e] * value[k + 1, e] - value[k, e]
                expected += (gamma * decay) ** (k - t) * delta
                if ends[k, e]:
                    break
            assert float(advantage[t, e]) == pytest.approx(expected, abs=1e-5)
            assert float(target[t, e]) == pytest.approx(expected + value[t, e], abs=1e-5)
    assert ends.any() and (discount == 0).any() and (ends & (discount == 1)).any()


# ------------------------------------------------------------------------ loss


def random_terms(n=64):
    """New and old log p, new and old value, advantage, target, entropy; ratios on both sides of the clip range."""
    then = RNG.normal(size=n)
    value = RNG.normal(size=n)
    return then + 0.2 * RNG.normal(size=n), then, value + 0.3 * RNG.normal(size=n), value, *RNG.normal(size=(3, n))


def test_ppo_loss_and_gradients():
    """Loss against NumPy; its gradients against what calculus says, branch by branch."""
    options = PPOOptions(clip=0.1, value_weight=0.5, entropy_weight=0.01)
    now, then, value_now, value, advantage, target, entropy = random_terms()
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (now, entropy, value_now)]
    rest = [torch.tensor(x, dtype=torch.float64) for x in (then, value, advantage, target)]
    loss, logged = ppo_loss(ActionLogProbs(*tensors), *rest, options)
    loss.backward()

    n = len(now)
    ratio = np.exp(now - then)
    gains = np.minimum(ratio * advantage, np.clip(ratio, 0.9, 1.1) * advantage)
    near = value + np.clip(value_now - value, -0.1, 0.1)
    errors = np.maximum((value_now - target) ** 2, (near - target) ** 2)
    expected = -gains.mean() + 0.5 * 0.5 * errors.mean() - 0.01 * entropy.mean()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    assert logged["ppo/clipped"] == pytest.approx(np.mean(np.abs(ratio - 1) > 0.1))

    flat = np.where(advantage > 0, ratio > 1.1, ratio < 0.9)  # where the ratio has left in the profitable direction
    np.testing.assert_allclose(tensors[0].grad, np.where(flat, 0.0, -ratio * advantage) / n, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(tensors[1].grad, np.full(n, -0.01 / n), rtol=1e-9)
    outside = np.abs(value_now - value) > 0.1
    blocked = outside & ((near - target) ** 2 > (value_now - target) ** 2)
    np.testing.assert_allclose(tensors[2].grad, np.where(blocked, 0.0, 0.5 * (value_now - target)) / n, rtol=1e-9)
    assert flat.any() and (~flat).any() and blocked.any() and (outside & ~blocked).any()


def test_a_ratio_above_ten_leaves_the_clipped_term_alone():
    """Ratios e^3 and 1, advantages -1: min would be -e^3 and -1, the clipped terms are -1.1 and -1."""
    options = PPOOptions(clip=0.1, value_weight=0.0)
    now = ActionLogProbs(torch.tensor([3.0, 0.0]), torch.zeros(2), torch.zeros(2))
    zeros, advantage = torch.zeros(2), torch.tensor([-1.0, -1.0])
    loss, _ = ppo_loss(now, zeros, zeros, advantage, zeros, options)
    assert float(loss) == pytest.approx((1.1 + 1.0) / 2)
    now = now._replace(log_prob=torch.tensor([2.0, 0.0]))  # e^2 is below ten: as ever
    loss, _ = ppo_loss(now, zeros, zeros, advantage, zeros, options)
    assert float(loss) == pytest.approx((np.exp(2.0) + 1.0) / 2, rel=1e-6)


def test_learning_rate_falls_as_a_cosine():
    options = PPOOptions(learning_rate=1e-5, final_learning_rate=1e-9, anneal_iterations=25)
    assert learning_rate(0, options) == pytest.approx(1e-5)
    middle = 0.5 * (learning_rate(12, options) + learning_rate(13, options))
    assert middle == pytest.approx(0.5 * (1e-5 + 1e-9), rel=1e-6)
    assert learning_rate(25, options) == learning_rate(99, options) == pytest.approx(1e-9)


# ------------------------------------------------------------- log-probability


@pytest.mark.parametrize("signed", [True, False])
def test_log_probabilities_equal_a_plain_forward_pass(any_backbone, frames, signed):
    """Token by token: allowed tokens come from rules written here, logits from one call per prefix."""
    from covr_jax.vlm.decode import decode_actions
    from covr_jax.vlm.grammar import build_grammar
    from covr_jax.vlm.models.loading import model_inputs, preprocess

    backbone, temperature = any_backbone, 0.7
    prompt = tokenize_prompt(backbone, Prompt("", "reacher easy"))
    grammar = build_grammar(backbone.tokenizer, 2, signed)
    width = backbone.model.config.get_text_config().hidden_size
    head = torch.nn.Linear(width, 1)
    images = torch.from_numpy(frames)
    generator = torch.Generator().manual_seed(0)

    def pick(scores):
        return torch.multinomial(torch.softmax(scores, -1), 1, generator=generator)[:, 0]

    pixels = preprocess(images, backbone.image)
    tokens = decode_actions(backbone, prompt, grammar, pixels, 6, pick)
    with torch.no_grad():
        found = score(backbone, prompt, grammar, head, images, tokens, temperature)

    names = backbone.tokenizer.get_vocab()
    sign = ["+", "-"] if signed else ["-", "0", "1"]
    numbers = {"": sign, "+": ["0", "1"], "-": ["0", "1"]}
    for n in range(3):
        ids = [*prompt.ids.tolist(), *grammar.prefix]
        total, current, entropies = 0.0, "", []
        one = preprocess(images[n : n + 1], backbone.image)
        for step, token in enumerate(tokens[n].tolist()):
            inputs = model_inputs(backbone, one, torch.tensor([ids]), prompt)
            with torch.no_grad():
                out = backbone.model(**inputs, output_hidden_states=True)
            if step == 0:
                value = head(out.hidden_states[-1][0, -1]).item()
            text = backbone.tokenizer.convert_ids_to_tokens(token)
            digits = current.lstrip("+-")
            if len(digits) == 4:  # a separator, or the padding after the last number
                current = ""
            elif text != "<pad>":
                follow = numbers.get(current) or ([*"0123456789"] if digits[:2] == "0." else ["0"])
                follow = ["."] if len(digits) == 1 else follow
                logits = out.logits[0, -1, [names[f] for f in follow]].double() / temperature
                log_p = logits - torch.logsumexp(logits, 0)
                total += log_p[follow.index(text)].item()
                if len(follow) > 1:
                    entropies.append(-(log_p.exp() * log_p).sum().item())
                current += text
            ids.append(token)
        assert found.log_prob[n].item() == pytest.approx(total, abs=2e-4)
        assert found.entropy[n].item() == pytest.approx(np.mean(entropies), abs=1e-4)
        assert found.value[n].item() == pytest.approx(value, abs=1e-4)


# ---------------------------------------------------------------------- policy


@pytest.fixture
def policy(make_engine):
    engine = make_engine(task="pendulum_swingup", action_dim=1, merge=False)
    options = PPOOptions(epochs=2, minibatch=16, temperature=1.0, learning_rate=3e-3, max_grad_norm=1.0)
    return TokenPolicy(engine, options, hidden=(32,), seed=0)


def noise(n):
    return np.random.default_rng(1).integers(0, 256, (n, 28, 28, 3), dtype=np.uint8)


def batch(policy, frames, reward):
    sampled = policy.sample(frames)
    return sampled, PPOBatch(
        frames, sampled.tokens, sampled.log_prob, sampled.value, reward(sampled) - sampled.value, reward(sampled)
    )


def test_a_sample_has_the_probability_it_was_drawn_with(policy):
    """Ratios begin at one, and the share of positive answers is what the model says it is."""
    frames = np.repeat(noise(1), 64, 0)
    sampled = policy.sample(frames)
    again = policy._score(torch.from_numpy(frames), sampled.tokens)
    np.testing.assert_allclose(again.log_prob.detach(), sampled.log_prob, atol=1e-5)
    np.testing.assert_allclose(policy.values(frames, sampled.tokens), sampled.value, atol=1e-5)
    assert sampled.valid.all() and (sampled.log_prob < 0).all()
    # The mean surprise is the entropy of the answer: of four decisions, or of two where the digit is a one.
    decisions = np.where(np.abs(sampled.action[:, 0]) == 1, 2, 4) * again.entropy.detach().numpy()
    surprise = -sampled.log_prob - decisions
    assert abs(surprise.mean()) < 4 * surprise.std() / math.sqrt(64)


def test_an_update_without_advantage_leaves_the_policy_alone(policy):
    """Equal advantages are zero after normalisation: with no entropy bonus only the value head learns."""
    frames = noise(8)
    policy.options = policy.options._replace(entropy_weight=0.0, value_weight=0.0)
    _, given = batch(policy, frames, lambda sampled: sampled.value)
    before = [p.detach().clone() for p in policy._parameters]
    policy.update(given)
    for old, new in zip(before, policy._parameters, strict=True):
        torch.testing.assert_close(old, new)


def test_the_size_of_forward_passes_changes_memory_only(make_engine):
    """An update in parts of 4 is the update in one."""
    after = []
    for size in (4, 16):
        engine = make_engine(task="pendulum_swingup", action_dim=1, merge=False)
        options = PPOOptions(epochs=1, minibatch=16, temperature=1.0, learning_rate=1e-3)
        policy = TokenPolicy(engine, options, hidden=(8,), seed=0)
        _, given = batch(policy, noise(16), lambda sampled: sampled.action[:, 0])
        policy.options = options._replace(forward_batch=size)
        after.append((policy.update(given), [p.detach().clone() for p in policy._parameters]))
    assert after[0][0] == pytest.approx(after[1][0], abs=1e-5)
    for one, other in zip(after[0][1], after[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


def test_the_return_of_a_bandit_rises(policy):
    """With the action as reward, actions approach +1."""
    frames = np.repeat(noise(2), 16, 0)
    means = []
    for _ in range(8):
        sampled, given = batch(policy, frames, lambda sampled: sampled.action[:, 0])
        means.append(sampled.action.mean())
        policy.update(given)
    final = policy.sample(frames).action.mean()
    assert final > means[0] + 0.4 and final > 0.5, (means, final)
