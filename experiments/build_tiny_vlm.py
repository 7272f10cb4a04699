"""Trains the shipped tiny VLM offline: to read joint positions from scenes of our own renderer, never to act.

  python experiments/build_tiny_vlm.py                 # renders, trains and writes covr_jax/vlm/assets/
  python experiments/build_tiny_vlm.py --frames 1 3    # batches of one frame and of three take turns

Prompts are "<domain> pose"; the answer lists the scene's joint numbers in the format of actions. About three frames,
one agent step apart, it goes on with the motion of the joints from step to step. With the text loss alone the model
ignores the image for hundreds of steps, so a linear regression head on the image features (discarded afterwards) trains
the vision tower too. No actions, rewards or policies are used: joints move at constant speeds, without physics.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from covr_jax.vlm.codec import format_numbers
from covr_jax.vlm.decode import answer_texts, decode_actions, parse_all
from covr_jax.vlm.grammar import build_grammar
from covr_jax.vlm.models import tiny
from covr_jax.vlm.models.loading import Backbone, backbone_from, model_inputs, preprocess, tokenize_prompt
from covr_jax.vlm.prompts import Prompt
from covr_jax.vlm.trainer import IGNORE, ralw_loss
from experiments.tiny_vlm_scenes import DOMAINS, HELD_OUT, Domain, make_data


def of_frames(backbone: Backbone, frames: int) -> Backbone:
    """Returns the backbone as it is asked about a number of frames."""
    return backbone._replace(image=backbone.image._replace(frames=frames))


def stacked(frames: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the newest ``count`` of frames u8[N,F,H,W,3] as the engine gets them, u8[N,H,W,3 count]."""
    return frames[:, -count:].permute(0, 2, 3, 1, 4).flatten(3)


def answer_of(domain: Domain, pose: np.ndarray, motion: np.ndarray, frames: int) -> np.ndarray:
    """Returns the numbers of answers: of the last frame's pose f32[...,F,k], and about several frames of the motion."""
    last = pose[..., -1, : domain.answered]
    return np.concatenate([last, motion], -1) if frames > 1 else last


class Corpus:
    """The data of all domains in memory, and batches that mix them."""

    def __init__(self, backbone: Backbone, frames: tuple[int, ...], counts: tuple[int, int], share: float, seed: int,
                 log, cache: Path | None = None):  # fmt: skip
        """Renders the data.

        Args:
          backbone: that is trained.
          frames: numbers of frames of a question; batches take them in turn.
          counts: samples of cartpole and of each other domain.
          share: of cartpole in the batches.
          seed: of data and batches.
          log: is told what was rendered.
          cache: directory of rendered data.
        """
        self.backbones = {count: of_frames(backbone, count) for count in frames}
        self.rng, self.names = np.random.default_rng(seed), list(DOMAINS)
        others = np.array([0.0 if n == "cartpole" else DOMAINS[n].share for n in self.names])
        self.shares = others / others.sum() * (1.0 - share)
        self.shares[self.names.index("cartpole")] = share
        words = sorted(w for w in backbone.tokenizer.get_vocab() if w.replace("_", "").isalpha())
        self.words = [w for w in words if w not in ("pose", *self.names)]
        most = max(frames)
        self.data = {n: make_data(n, counts[n != "cartpole"], most, seed, log, cache) for n in self.names}
        self.head_size = max(scenes.pose.shape[-1] for scenes in self.data.values())
        self.prompts = {count: tokenize_prompt(b, Prompt("", "cartpole pose")) for count, b in self.backbones.items()}
        self.encode = backbone.tokenizer.encode
        self.first_word = self.encode("cartpole", add_special_tokens=False)[0]

    def batch(self, size: int, frames: int):
        """Returns frames u8[B,H,W,3F], ids i64[B,L], labels i64[B,T], targets f32[B,F,D,head] and their mask."""
        pictures, rows, prompts = [], [], []
        targets = torch.zeros(size, frames, len(self.names), self.head_size)
        mask = torch.zeros_like(targets)
        word_at = int((self.prompts[frames].ids == self.first_word).nonzero()[0])
        for b, d in enumerate(self.rng.choice(len(self.names), size, p=self.shares)):
            name = self.names[d]
            data = self.data[name]
            i = self.rng.integers(HELD_OUT, len(data.frames))
            pictures.append(data.frames[i])
            targets[b, :, d, : data.pose.shape[-1]] = torch.from_numpy(data.pose[i, -frames:])
            mask[b, :, d, : data.pose.shape[-1]] = 1.0
            # The wording varies, so that the model knows all words of the task prompts.
            word = "pose" if self.rng.random() < 0.6 else self.words[self.rng.integers(len(self.words))]
            prefix = "Pose: [" if self.rng.random() < 0.5 else "Action: ["
            prompt = self.prompts[frames].ids.clone()
            prompt[word_at : word_at + 2] = torch.tensor(self.encode(f"{name} {word}", add_special_tokens=False))
            prompts.append(prompt)
            numbers = answer_of(DOMAINS[name], data.pose[i], data.motion[i], frames)
            text = prefix + format_numbers(numbers, signed=True) + "]<|im_end|>"
            rows.append(torch.tensor(self.encode(text, add_special_tokens=False)))
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORE)
        ids = torch.cat([torch.stack(prompts), labels.clamp_min(0)], 1)
        return stacked(torch.stack(pictures), frames), ids, labels, targets, mask


def train(backbone: Backbone, corpus: Corpus, steps: int, batch: int, rate: float, log, snapshot=None) -> None:
    """Trains all weights with AdamW, warm-up and linear decay, on Eq. 6 with weights 1 plus the regression loss."""
    model = backbone.model.train()
    features = backbone.image.tokens * model.config.text_config.hidden_size
    head = torch.nn.Linear(features, len(corpus.names) * corpus.head_size)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    started, turns = time.perf_counter(), list(corpus.backbones)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 100, (steps - step) / (steps - 99))
        count = turns[step % len(turns)]
        asked = corpus.backbones[count]
        frames, ids, labels, targets, mask = corpus.batch(batch, count)
        inputs = model_inputs(asked, preprocess(frames, asked.image), ids, corpus.prompts[count])
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
        if step % 50 < len(turns):
            shown = f"step {step + 1}, {count} frames: text {loss:.3f} regression {regression:.4f}"
            log(f"{shown} {time.perf_counter() - started:.0f} s")
        if step % 500 == 499:
            log(f"  held-out {evaluate(corpus)}")
            if snapshot:
                snapshot(backbone)
    model.eval()


def evaluate(corpus: Corpus) -> dict[str, list[float]]:
    """Returns the mean absolute error per number and domain on held-out scenes, from decoded answers.

    About several frames the numbers of the motion follow those of the pose.
    """
    errors = {}
    for count, backbone in corpus.backbones.items():
        for name, domain in DOMAINS.items():
            data = corpus.data[name]
            frames, pose, motion = data.frames[:HELD_OUT], data.pose[:HELD_OUT], data.motion[:HELD_OUT]
            numbers = answer_of(domain, pose, motion, count)
            prompt = tokenize_prompt(backbone, Prompt("", f"{name} pose"))
            grammar = build_grammar(backbone.tokenizer, numbers.shape[1], signed=True)
            actions = []
            for part in torch.split(stacked(frames, count), 64):
                tokens = decode_actions(backbone, prompt, grammar, preprocess(part, backbone.image), len(part))
                actions.append(parse_all(answer_texts(backbone.tokenizer, grammar, tokens), numbers.shape[1])[0])
            error = np.abs(np.concatenate(actions) - numbers)
            label = name if count == 1 else f"{name}, {count} frames"
            errors[label] = error.mean(0).astype(float).round(3).tolist()
            if name == "cartpole":
                # Near the ends of the rail an outward pole is outside of the image.
                tip = 1.8 * numbers[:, 0] + numbers[:, 1]
                errors[f"{label}, pole in the picture"] = error[np.abs(tip) < 1.6].mean(0).round(3).tolist()
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
    parser.add_argument("--samples", type=int, default=20_000, help="of cartpole; other domains get a quarter each")
    parser.add_argument("--frames", nargs="+", type=int, default=[1], help="of a question; batches take them in turn")
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
        write_asset(backbone, {"settings": settings, "held_out_mae": evaluate(corpus)}, args.out)

    settings = {k: v for k, v in vars(args).items() if k not in ("out", "cache", "init")}
    if args.init:
        settings["continued_from"] = json.loads(args.init.with_suffix(".json").read_text())
    start = tiny.load_tiny(args.init) if args.init else tiny.build_tiny(args.seed)
    backbone = backbone_from(*start, is_tiny=True)
    counts = (args.samples, args.samples // 4)
    corpus = Corpus(backbone, tuple(args.frames), counts, args.cartpole_share, args.seed, log, args.cache)
    train(backbone, corpus, args.steps, args.batch, args.rate, log, snapshot)
    errors = evaluate(corpus)
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
