"""A run directory as training writes it, for the tests of the report."""

import json
import math
import struct
import zlib

import numpy as np

ROUNDS = [5_000, 15_000, 30_000, 50_000, 75_000]


def png(pixels):
    """u8[H,W,3] -> PNG bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    raw = b"".join(b"\x00" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def cartpole_frame(position, angle):
    """u8[84,84,3], an image like the task's."""
    y, x = np.mgrid[0:84, 0:84]
    frame = np.empty((84, 84, 3), np.uint8)
    frame[:] = np.where((x // 12 + y // 12) % 2 == 0, 52, 64)[..., None] + np.array([0, 18, 40], np.uint8)
    frame[52:54] = (140, 140, 150)
    cart = 42 + 24 * position
    frame[48:58, max(0, int(cart) - 8) : int(cart) + 8] = (214, 178, 70)
    along = (x - cart) * math.sin(angle) - (y - 50) * math.cos(angle)
    across = (x - cart) * math.cos(angle) + (y - 50) * math.sin(angle)
    frame[(along > 0) & (along < 34) & (np.abs(across) < 2.2)] = (222, 120, 60)
    return frame


def write_json(path, value):
    """Writes a value as JSON, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def make_metrics(rng, total):
    rows = [{"env_steps": 0, "agent_steps": 0, "updates": 0, "wall_s": 1.0, "eval/random_return": 27.4}]
    for i, step in enumerate(range(1_000, total + 1, 1_000)):
        share = step / 100_000
        skill = 870 / (1 + math.exp(-9 * (share - 0.42)))
        row = {"env_steps": step, "agent_steps": step // 8, "updates": max(0, step // 8 - 1000), "wall_s": 3.9 * i}
        row |= {
            "train/episode_return": skill + 25 + rng.normal(0, 45),
            "train/env_steps_per_second": 250 + rng.normal(0, 8),
            "train/updates_per_second": 31 + rng.normal(0, 1),
            "losses/critic": 0.4 * math.exp(-2 * share) + 0.05 + abs(rng.normal(0, 0.03)),
            "losses/actor": -20 * share + rng.normal(0, 0.6),
            "losses/alpha": rng.normal(0, 0.02) if step > 2_000 else None,
            "sac/alpha": 0.1 * math.exp(-1.8 * share) + 0.01,
            "sac/entropy": 0.6 - 1.6 * share + rng.normal(0, 0.05),
            "replay/size": step // 8,
            "vlm/queries": step // 80,
            "vlm/parse_fail_rate": max(0.0, 0.3 - share) + 0.002,
        }
        if step > 50_000:
            row["losses/guidance"] = 0.5 * math.exp(-3 * (share - 0.5)) + abs(rng.normal(0, 0.02))
        if step % 10_000 == 0:
            row["eval/episode_return"] = skill + rng.normal(0, 12)
            row["eval/episode_return_std"] = 18 + 160 * share * (1 - share)
        rows.append(row)
    return rows


def make_round(rng, folder, c, env_steps):
    samples, exploration = env_steps // (8 * (c + 1)), -0.5 + 0.35 * c
    weights = np.clip(rng.normal(0.1 + 0.05 * c, 0.45, size=samples // 4), 0, 1)
    counts, edges = np.histogram(weights, bins=10, range=(0, 1))
    write_json(
        folder / "record.json",
        {
            "round": c,
            "env_steps": env_steps,
            "samples": samples,
            "kept": samples // 4,
            "kept_fraction": 0.25 - 0.02 * c,
            "exploration": exploration,
            "entropy": -exploration,
            "tau": 0.3 + 0.12 * c,
            "weight_mean": float(weights.mean()),
            "kept_steps": {"edges": [0, 42, 84, 125], "counts": [70, 20, 10], "all": [100, 100, 100]},
            "weight_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
            "finetune_loss": [
                2.4 * math.exp(-(i + 60 * (c - 1)) / 90) + 0.6 + 0.06 * rng.normal() for i in range(40 + 10 * c)
            ],
            "finetune_seconds": 41.0 + 9 * c,
            "action_error": 0.71 * 0.75**c,
            "vlm_return": 30 + 105.5 * c,
            "vlm_return_std": 22.0,
            "interval": 5_000 * c,
            "tuned": True,
            "guidance": c >= 4,
        },
    )
    samples_json = []
    for i in range(4):
        action, error = float(rng.uniform(-1, 1)), float(rng.normal(0, 0.4 * 0.7**c))
        (folder / f"sample_{i}.png").write_bytes(png(cartpole_frame(rng.uniform(-1, 1), rng.normal(0, 2.4 / c))))
        samples_json.append(
            {
                "frame": f"sample_{i}.png",
                "prompt": "You balance a pole on a cart.\nAnswer with the push on the cart in [-1, 1].",
                "answer": f"Action: [{max(-1.0, min(1.0, action + error)):+.2f}]",
                "agent_action": [action],
                "weight": float(weights[i]),
                "return": 33.1 + 4 * i,
            }
        )
    write_json(folder / "samples.json", samples_json)


def make_run(folder, rounds=5, total=100_000, method="covr", seed=1, task="cartpole_swingup"):
    rng = np.random.default_rng(seed)
    config = {"task": task, "method": method, "base": "rad", "seed": seed, "preset": "paper", "total_steps": 100_000}
    config |= {
        "env": {"num_envs": 1, "action_repeat": 8, "frame_stack": 3},
        "sac": {"batch_size": 128, "discount": 0.99, "conv_strides": [2, 1, 1, 1], "learning_rate": None},
        "covr": {"psi_0": 5_000, "guidance_weight": 1.0, "cold_start_rounds": 4},
        "vlm": {"name": "Qwen/Qwen2.5-VL-3B-Instruct", "lora_rank": 128},
    }
    write_json(folder / "config.json", config)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_metrics(rng, total)))
    if rounds:
        before = {"round": 0, "env_steps": 0, "action_error": None, "vlm_return": 21.5, "vlm_return_std": 9.0}
        write_json(folder / "vlm/round_0/record.json", before)
    for c in range(1, rounds + 1):
        make_round(rng, folder / f"vlm/round_{c}", c, ROUNDS[c - 1])
    return folder


def finish(folder):
    """Adds the files that training writes at its end."""
    result = {"random_return": 27.4, "final_return": 861.2, "final_return_std": 12.9, "seconds": 11_045.0}
    command = f"python experiments/train.py --task cartpole_swingup --method covr --seed 1 --run-dir {folder.name}"
    write_json(folder / "result.json", result | {"command": command})


def edit(folder, name, change):
    """Changes a JSON file of a run in place."""
    path = folder / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
