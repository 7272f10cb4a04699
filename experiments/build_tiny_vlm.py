"""Trains the shipped tiny VLM offline: to read joint positions from scenes of our own renderer, never to act.

  python experiments/build_tiny_vlm.py                 # renders, trains and writes covr_jax/vlm/assets/

Prompts are "<domain> pose"; the answer lists the scene's joint numbers in the format of actions. With the text loss
alone the model ignores the image for hundreds of steps, so a linear regression head on the image features (discarded
afterwards) trains the vision tower too. No actions, rewards or policies are used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from covr_jax.vlm.codec import format_numbers
from covr_jax.vlm.decode import answer_texts, decode_actions, parse_all
from covr_jax.vlm.grammar import build_grammar
from covr_jax.vlm.models import tiny
from covr_jax.vlm.models.images import resize
from covr_jax.vlm.models.loading import backbone_from, model_inputs, preprocess, tokenize_prompt
from covr_jax.vlm.prompts import Prompt
from covr_jax.vlm.trainer import IGNORE, ralw_loss

PI = np.pi


class Domain(NamedTuple):
    """Which poses of a dm_control scene are rendered, and which numbers in [-1, 1] describe them."""

    low: tuple[float, ...]  # joint positions are uniform in [low, high]
    high: tuple[float, ...]
    linear: tuple[int, ...]  # joints given as position / range
    angles: tuple[int, ...]  # joints given as (sin, cos)
    answered: int  # how many of these numbers the answer has; the regression head predicts all
    share: float  # of the training samples


_LEGS = (-0.35, -2.6, -0.78, -0.35, -2.6, -0.78), (1.7, 0.0, 0.78, 1.7, 0.0, 0.78)
DOMAINS = {
    "cartpole": Domain((-1.8, -PI), (1.8, PI), (0,), (1,), 3, 0.44),
    "pendulum": Domain((-PI,), (PI,), (), (0,), 2, 0.08),
    "reacher": Domain((-PI, -2.7), (PI, 2.7), (1,), (0,), 3, 0.08),
    "finger": Domain((-1.9, -1.9, -PI), (1.9, 1.9, PI), (0, 1), (2,), 4, 0.08),
    "ball_in_cup": Domain((-0.25, -0.25, -0.25, -0.25), (0.25, 0.25, 0.25, 0.25), (0, 1, 2, 3), (), 4, 0.08),
    "cheetah": Domain(
        (0.0, -0.1, -0.5, -0.5, -0.8, -0.4, -0.9, -1.1, -0.5),
        (0.0, 0.3, 0.5, 1.0, 0.8, 0.8, 0.0, 0.8, 0.5),
        (3, 4, 6, 7),
        (2,),
        4,
        0.08,
    ),
    "walker": Domain((-0.3, 0.0, -1.2, *_LEGS[0]), (0.1, 0.0, 1.2, *_LEGS[1]), (3, 4, 6, 7), (2,), 4, 0.08),
    "hopper": Domain(
        (0.0, -0.2, -0.8, -0.5, -2.9, 0.1, -0.78), (0.0, 0.4, 0.8, 0.5, 0.1, 2.6, 0.78), (3, 4, 5), (2,), 4, 0.08
    ),
}
# Share of the frames per rendered size, pixels: users render at many sizes. Compiling every scene at all of them would
# take longer than the training.
SIZES = {84: 0.45, 48: 0.3, 36: 0.08, 64: 0.09, 100: 0.08}
OTHER_SIZES = {84: 0.6, 48: 0.4}
HELD_OUT = 256


def sample_poses(domain: Domain, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws poses. Returns qpos f32[n,nq] and numbers f32[n,k] in [-1, 1]."""
    low, high = np.asarray(domain.low), np.asarray(domain.high)
    qpos = rng.uniform(low, high, (n, len(low)))
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-6)
    linear = ((qpos - middle) / half)[:, list(domain.linear)]
    angles = qpos[:, list(domain.angles)]
    return qpos.astype(np.float32), np.concatenate([linear, np.sin(angles), np.cos(angles)], 1).astype(np.float32)


def scene_drawer(name: str):
    """Returns (qpos f32[n,nq], size) -> u8[n,84,84,3], which renders at ``size`` and resizes as the model does."""
    import importlib

    import jax
    from mujoco import mjx

    from covr_jax.render import Renderer

    mujoco: Any = importlib.import_module("mujoco")  # its extension module has no type information
    xml, assets = importlib.import_module(f"dm_control.suite.{name}").get_model_and_assets()
    mj_model = mujoco.MjModel.from_xml_string(xml.decode() if isinstance(xml, bytes) else xml, assets)
    mj_model.opt.enableflags &= ~int(
        mujoco.mjtEnableBit.mjENBL_ENERGY
    )  # MJX rejects the flag; it does not affect images
    model = mjx.put_model(mj_model)

    @jax.jit
    @jax.vmap
    def pose(q):
        data = mjx.kinematics(model, mjx.make_data(model).replace(qpos=q))
        return mjx.tendon(model, mjx.camlight(model, mjx.com_pos(model, data)))

    def draw(qpos: np.ndarray, size: int, chunk: int = 64) -> np.ndarray:
        batch = jax.jit(Renderer(mj_model, size, size, camera=0).batch)
        out = []
        for start in range(0, len(qpos), chunk):
            part = np.resize(qpos[start : start + chunk], (chunk, qpos.shape[1]))
            frames = np.array(batch(pose(part)))[: len(qpos) - start]
            x = resize(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), tiny.IMAGE_SIZE)
            out.append(x.byte().permute(0, 2, 3, 1).contiguous().numpy())
        return np.concatenate(out)

    return draw


def make_data(name: str, n: int, seed: int, log, cache: Path | None = None) -> tuple[torch.Tensor, np.ndarray]:
    """Returns frames u8[n,84,84,3] at the mix of sizes and numbers f32[n,k], shuffled; kept in ``cache`` if given."""
    file_name = cache / f"{name}_{n}_{seed}.npz" if cache else None
    if file_name and file_name.exists():
        with np.load(file_name, allow_pickle=False) as file:
            return torch.from_numpy(file["frames"]), file["numbers"]
    rng = np.random.default_rng([seed, list(DOMAINS).index(name)])
    frames, numbers, started, draw = [], [], time.perf_counter(), scene_drawer(name)
    for size, share in (SIZES if name == "cartpole" else OTHER_SIZES).items():
        qpos, values = sample_poses(DOMAINS[name], int(share * n), rng)
        frames.append(draw(qpos, size))
        numbers.append(values)
    order = rng.permutation(sum(map(len, numbers)))
    log(f"{name}: {len(order)} frames in {time.perf_counter() - started:.0f} s")
    frames, numbers = np.concatenate(frames)[order], np.concatenate(numbers)[order]
    if file_name and cache:
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file_name, frames=frames, numbers=numbers)
    return torch.from_numpy(frames), numbers


class Corpus:
    """The data of all domains in memory, and batches that mix them."""

    def __init__(self, backbone, frames_main: int, frames_other: int, share: float, seed: int, log, cache=None):
        self.backbone, self.rng = backbone, np.random.default_rng(seed)
        self.names = list(DOMAINS)
        others = np.array([0.0 if n == "cartpole" else DOMAINS[n].share for n in self.names])
        self.shares = others / others.sum() * (1.0 - share)
        self.shares[self.names.index("cartpole")] = share
        tokenizer = backbone.tokenizer
        words = sorted(w for w in tokenizer.get_vocab() if w.replace("_", "").isalpha())
        self.words = [w for w in words if w not in ("pose", *self.names)]
        counts = {n: frames_main if n == "cartpole" else frames_other for n in self.names}
        self.data = {n: make_data(n, counts[n], seed, log, cache) for n in self.names}
        self.head_size = max(v.shape[1] for _, v in self.data.values())
        self.prompt = tokenize_prompt(backbone, Prompt("", "cartpole pose"))
        text = tokenizer("cartpole pose", add_special_tokens=False).input_ids
        self.word_at = int((self.prompt.ids == text[0]).nonzero()[0])

    def batch(self, size: int):
        """Returns frames, ids i64[B,L], labels i64[B,T], targets f32[B,D,head] and their mask f32[B,D,head]."""
        encode = self.backbone.tokenizer.encode
        frames, rows, prompts = [], [], []
        targets = torch.zeros(size, len(self.names), self.head_size)
        mask = torch.zeros_like(targets)
        for b, d in enumerate(self.rng.choice(len(self.names), size, p=self.shares)):
            name = self.names[d]
            images, numbers = self.data[name]
            i = self.rng.integers(HELD_OUT, len(images))
            frames.append(images[i])
            targets[b, d, : numbers.shape[1]] = torch.from_numpy(numbers[i])
            mask[b, d, : numbers.shape[1]] = 1.0
            # The wording varies, so that the model knows all words of the task prompts.
            word = "pose" if self.rng.random() < 0.6 else self.words[self.rng.integers(len(self.words))]
            prefix = "Pose: [" if self.rng.random() < 0.5 else "Action: ["
            prompt = self.prompt.ids.clone()
            prompt[self.word_at : self.word_at + 2] = torch.tensor(encode(f"{name} {word}", add_special_tokens=False))
            prompts.append(prompt)
            text = prefix + format_numbers(numbers[i][: DOMAINS[name].answered], signed=True) + "]<|im_end|>"
            rows.append(torch.tensor(encode(text, add_special_tokens=False)))
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORE)
        ids = torch.cat([torch.stack(prompts), labels.clamp_min(0)], 1)
        return torch.stack(frames), ids, labels, targets, mask


def train(backbone, corpus: Corpus, steps: int, batch: int, rate: float, log, snapshot=None) -> None:
    """Trains all weights with AdamW, warm-up and linear decay, on Eq. 6 with weights 1 plus the regression loss."""
    model = backbone.model.train()
    features = backbone.image.tokens * model.config.text_config.hidden_size
    head = torch.nn.Linear(features, len(corpus.names) * corpus.head_size)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    started = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 100, (steps - step) / (steps - 99))
        frames, ids, labels, targets, mask = corpus.batch(batch)
        inputs = model_inputs(backbone, preprocess(frames, backbone.image), ids, corpus.prompt)
        seen = model.model.get_image_features(inputs.pop("pixel_values"), inputs["image_grid_thw"], return_dict=True)
        pooled = torch.stack(list(seen.pooler_output)).flatten(1)
        guess = head(pooled).view_as(targets)
        regression = ((guess - targets) ** 2 * mask).sum() / mask.sum()
        out = model(**inputs, mm_encoder_outputs={"image": seen}, use_cache=False, logits_to_keep=labels.shape[1] + 1)
        loss = ralw_loss(out.logits[:, :-1], labels, torch.ones(batch), 0.0)
        (loss + regression).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 49:
            log(f"step {step + 1} text {loss:.3f} regression {regression:.4f} {time.perf_counter() - started:.0f} s")
        if step % 500 == 499:
            log(f"  held-out {evaluate(backbone, corpus)}")
            if snapshot:
                snapshot(backbone)
    model.eval()


def evaluate(backbone, corpus: Corpus) -> dict[str, list[float]]:
    """Returns the mean absolute error per number and domain on held-out scenes, from decoded answers."""
    errors = {}
    for name, domain in DOMAINS.items():
        frames, numbers = corpus.data[name]
        prompt = tokenize_prompt(backbone, Prompt("", f"{name} pose"))
        grammar = build_grammar(backbone.tokenizer, domain.answered, signed=True)
        actions = []
        for part in torch.split(frames[:HELD_OUT], 64):
            tokens = decode_actions(backbone, prompt, grammar, preprocess(part, backbone.image), len(part))
            actions.append(parse_all(answer_texts(backbone.tokenizer, grammar, tokens), domain.answered)[0])
        error = np.abs(np.concatenate(actions) - numbers[:HELD_OUT, : domain.answered])
        errors[name] = error.mean(0).astype(float).round(3).tolist()
        if name == "cartpole":
            # Near the ends of the rail an outward pole is outside of the image.
            tip = 1.8 * numbers[:HELD_OUT, 0] + numbers[:HELD_OUT, 1]
            errors["cartpole, pole in the picture"] = error[np.abs(tip) < 1.6].mean(0).astype(float).round(3).tolist()
    return errors


def write_asset(backbone, record: dict, path: Path = tiny.ASSET) -> None:
    """Writes the weights and beside them their record with the sha256; tied output weights are stored once."""
    state = {k: v.detach().contiguous() for k, v in backbone.model.state_dict().items() if k != "lm_head.weight"}
    content = save(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    record = {**record, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Returns the versions of the packages that affect the weights."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "mujoco", "dm-control", "jax")}


def main() -> None:
    """Renders, trains and writes the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--frames", type=int, default=20_000, help="cartpole frames; other domains get a quarter each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cartpole-share", type=float, default=DOMAINS["cartpole"].share, help="of the samples")
    parser.add_argument("--init", type=Path, help="continue from these weights (.safetensors beside its .json record)")
    parser.add_argument("--cache", type=Path, help="directory in which rendered frames are kept between runs")
    parser.add_argument("--out", type=Path, default=tiny.ASSET)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()

    def log(text: str) -> None:
        print(text, flush=True)

    def snapshot(backbone):
        write_asset(backbone, {"settings": settings, "held_out_mae": evaluate(backbone, corpus)}, args.out)

    settings = {k: v for k, v in vars(args).items() if k not in ("out", "cache", "init")}
    if args.init:
        settings["continued_from"] = json.loads(args.init.with_suffix(".json").read_text())
    start = tiny.load_tiny(args.init) if args.init else tiny.build_tiny(args.seed)
    backbone = backbone_from(*start, is_tiny=True)
    corpus = Corpus(backbone, args.frames, args.frames // 4, args.cartpole_share, args.seed, log, args.cache)
    train(backbone, corpus, args.steps, args.batch, args.rate, log, snapshot)
    errors = evaluate(backbone, corpus)
    log(f"held-out {errors}")
    record = {
        "what": "tiny Qwen2.5-VL that reads joint positions off rendered dm_control scenes; never shown an action",
        "settings": settings,
        "domains": {name: domain._asdict() for name, domain in DOMAINS.items()},
        "held_out_mae": errors,
        "seconds": round(time.perf_counter() - started),
        "versions": versions(),
    }
    write_asset(backbone, record, args.out)


if __name__ == "__main__":
    main()
