"""Updates per second of our learner beside PyTorch's and a naive JAX one, in one process, taking turns.

``python experiments/benchmark/learner.py --shapes paper demo --output learner.json``

All make RAD's update: augmentation, twin critics, actor and temperature and targets every second time, on one batch of
bytes that is already on the device. ``torch`` has the published code's layout, ``torch_channels_last`` the memory
format that suits its kernels and a fused Adam, ``torch_compile`` (with a GPU) is the latter through ``torch.compile``,
``naive_jax`` is JAX without tuning. They share the process, hence threads, processors and memory allocator;
``naive_jax_alone`` (on CPU) has a process of its own, with glibc's allocator variables but not ``runtime.configure``.
Each round runs all of them in turn; a ratio is the median over rounds. First gradients from equal parameters, batch and
draws are compared with Torch's in float64: the largest difference over the largest value of each parameter; and what
``sac.precision`` does to losses and gradients stands beside float32 (a CPU computes tf32 as float32).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.benchmark import measure  # noqa: E402
from experiments.benchmark.turns import pin  # noqa: E402

RIVALS = ("torch", "torch_channels_last", "torch_compile", "naive_jax", "naive_jax_alone")
ON = {"torch_compile": "cuda", "naive_jax_alone": "cpu"}  # these take part on one kind of device only


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="learner.py", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["paper", "demo"], choices=("paper", "demo", "tiny"))
    parser.add_argument("--batch-size", type=int, help="transitions per update; the shapes' own by default")
    parser.add_argument("--precision", default="float32", choices=("float32", "tf32", "bfloat16"))
    parser.add_argument("--threads", type=int, help="processors to keep to; all by default")
    parser.add_argument("--seeds", type=int, default=1, help="above 1: also ours with this many learners in one vmap")
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=RIVALS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one contestant's turn in a round, about")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    for name in ("batch_size", "threads", "seeds", "rounds"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    return arguments


def main() -> int:
    arguments = parse()
    threads = pin(arguments.threads)

    from experiments.benchmark import learner_contest as contest

    rows, details = [], {}
    for shapes in arguments.shapes:
        bench = contest.Bench(shapes, arguments.batch_size, arguments.precision, threads)
        gradients, rounding = bench.gradients(), bench.rounding()
        rivals = [name for name in arguments.rivals if ON.get(name, bench.device) == bench.device]
        found = bench.rows(rivals, arguments.seeds, arguments.rounds, arguments.seconds)
        summary = bench.summary(found)
        details[shapes] = summary | {"rounding": rounding, "gradients": gradients}
        rows += [{"shapes": shapes} | row for row in found]
        for part in (contest.worst(gradients), rounding, [summary], found):
            print(measure.table(part) + "\n", flush=True)
    if arguments.output:
        measure.write(arguments.output, rows, precision=arguments.precision, threads=threads, shapes=details)
    return 0


if __name__ == "__main__":
    sys.exit(main())
