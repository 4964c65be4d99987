"""One whole training step of DI3CL beside the published way, in turn: tiles, views, network, twin, queues, optimiser.

    .venv/bin/python benchmarks/bench_step.py [--depth 18] [--size 96] [--batch 32] [--rounds 7]
    .venv/bin/python benchmarks/bench_step.py --loop --device cuda --depth 50 --size 448 --batch 256 --run di3cl_paper

The first form has a process for each way, one thread each, that work by turns: the same network (the published heads,
queues and losses; one start), the same batch, tiles of the same ground, a file each there and a shard here. Both do the
reading within the step. Seconds are of the processor, so that other load counts little; the figure is the ratio of
medians. Before, the port must lose what ours loses on the same views. What the port does: published_step.py.

The second form runs the whole loop on a device (bf16 on a GPU) and gives its own measures: images per second, share of
time spent waiting for data, TFLOPS and their share of the device's peak.
"""

import argparse
import io
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
WARM = 2  # steps until kernels are compiled and memory is in use


class Clock:
    """CPU seconds by part, each without the parts inside it."""

    def __init__(self) -> None:
        self.seconds = Counter[str]()
        self._inner = [0.0]

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begun = time.process_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.process_time() - begun
            self.seconds[name] += took - self._inner.pop()
            self._inner[-1] += took

    def around(self, place: Any, name: str, part: str) -> None:
        """Time every call of a function of a module or class."""
        function = getattr(place, name)

        def timed(*values: Any, **named: Any) -> Any:
            with self(part):
                return function(*values, **named)

        setattr(place, name, timed)


def config_of(asked: argparse.Namespace) -> Any:
    """Give the published run at the size that is asked for."""
    from pretrain.config import resolve
    from pretrain.di3cl_run import DI3CLRun

    run = resolve(DI3CLRun, run=asked.run)
    return run.model_copy(
        update={
            "batch": asked.batch,
            "encoder": run.encoder.model_copy(update={"depth": asked.depth}),
            "views": run.views.model_copy(update={"size_px": asked.size}),
        }
    )


def ours(asked: argparse.Namespace, folder: str, clock: Clock) -> Callable[[int], object]:
    """Give our step, as launch and loop put it together, with its reading in the same thread."""
    import numpy as np
    import torch

    import pretrain.di3cl as method
    from infra.allocator import keep_freed_memory
    from infra.world import World
    from pretrain.loop import prepare
    from pretrain.optim import learning_rate
    from pretrain.parts import Queue
    from pretrain.step import Step
    from shards.draw import generator
    from shards.reader import Corpus

    keep_freed_memory()
    config, corpus, world = config_of(asked), Corpus.open(f"{folder}/corpus"), World()
    learner = method.DI3CL(config, corpus.scale, world)
    optimiser = prepare(learner, config, world, late=False)
    doing, draw = Step(learner, optimiser, config, world, late=False), learner.draw
    clock.around(method, "encoder_input", "grey values")
    clock.around(method, "follow", "EMA")
    clock.around(Queue, "push", "queue")

    def step(number: int) -> float:
        with clock("tiles and views"):
            drawn = [draw(corpus.tile(i), generator(0, number, i)) for i in range(config.batch)]
            batch = {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}
        with clock("forward and backward"):
            loss = doing.gradients(batch, number)["loss"]
        with clock("optimiser"):
            doing.update(number, learning_rate(number, config))
        return float(loss)

    return step


def published(asked: argparse.Namespace, folder: str, clock: Clock) -> Callable[[int], object]:
    """Give the port's step."""
    from published_step import PublishedStep

    from infra.world import World
    from pretrain.di3cl import DI3CL
    from shards.reader import Corpus

    config, corpus = config_of(asked), Corpus.open(f"{folder}/corpus")
    files = [grey_file(corpus, i) for i in range(config.batch)]
    network = DI3CL(config, corpus.scale, World()).module
    return PublishedStep(network, config, files, clock)


def grey_file(corpus: Any, i: int) -> bytes:
    """Give a tile as the published code wants it: an image file of 8 bit."""
    import numpy as np
    from PIL import Image

    level = np.clip((corpus.scale.decode(corpus.tile(i).pixels[0]) + 35) / 45, 0, 1)
    file = io.BytesIO()
    Image.fromarray((np.nan_to_num(level) * 255).astype(np.uint8)).save(file, "png")
    return file.getvalue()


def serve(kind: str, asked: argparse.Namespace, folder: str, pipe: Connection) -> None:
    """Do steps when told how many, and give CPU seconds, seconds by the clock, and CPU seconds by part."""
    import random

    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    clock = Clock()
    step = {"ours": ours, "published": published}[kind](asked, folder, clock)
    done = 0
    while steps := pipe.recv():
        clock.seconds.clear()
        begun = time.process_time(), time.perf_counter()
        for _ in range(steps):
            step(done)
            done += 1
        ended = time.process_time(), time.perf_counter()
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pipe.send((ended[0] - begun[0], ended[1] - begun[1], dict(clock.seconds), peak_mib))


def beside(asked: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Let both work by turns."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for kind in ("ours", "published"):
        pipes[kind], theirs = context.Pipe()
        context.Process(target=serve, args=(kind, asked, folder, theirs), daemon=True).start()
        pipes[kind].send(WARM)
        pipes[kind].recv()
    rounds: dict[str, list[Any]] = {kind: [] for kind in pipes}
    for _ in range(asked.rounds):
        for kind, pipe in pipes.items():
            pipe.send(asked.steps)
            rounds[kind].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(0)
    found: dict[str, Any] = {}
    for kind, seen in rounds.items():
        cpu, wall = (statistics.median(one[k] for one in seen) / asked.steps for k in (0, 1))
        parts = {part: statistics.median(one[2][part] for one in seen) / asked.steps for part in seen[0][2]}
        split = {part: round(1e3 * s, 1) for part, s in sorted(parts.items(), key=lambda item: -item[1])}
        found[kind] = {
            "cpu_ms": round(1e3 * cpu, 1), "wall_ms": round(1e3 * wall, 1), "parts_cpu_ms": split,
            "peak_mib": round(seen[-1][3]),
            "cpu_ms_of_rounds": [round(1e3 * one[0] / asked.steps, 1) for one in seen],
        }  # fmt: skip
    times = [found["published"][name] / found["ours"][name] for name in ("cpu_ms", "wall_ms")]
    return {**found, "times_faster_cpu": round(times[0], 2), "times_faster_wall": round(times[1], 2), "wanted": 1.3}


def losses_of_one_batch(asked: argparse.Namespace, folder: str) -> dict[str, float]:
    """Give the loss of our views at the start, ours and the port's."""
    import numpy as np
    import torch
    from published_step import PublishedStep

    from infra.world import World
    from pretrain.di3cl import DI3CL
    from pretrain.inputs import encoder_input
    from shards.draw import generator
    from shards.reader import Corpus

    config, corpus = config_of(asked), Corpus.open(f"{folder}/corpus")
    learner, other = (DI3CL(config, corpus.scale, World()) for _ in range(2))
    drawn = [learner.draw(corpus.tile(i), generator(0, 0, i)) for i in range(config.batch)]
    batch = {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}
    views = [
        encoder_input(batch[f"view{k}"], batch[f"numbers{k}"], corpus.scale, config).expand(-1, 3, -1, -1).contiguous()
        for k in (1, 2)
    ]
    image = torch.arange(config.batch).repeat_interleave(config.views.boxes).unsqueeze(1)
    boxes = [torch.cat([image, batch[f"boxes{k}"].flatten(0, 1)], 1) for k in (1, 2)]
    port = PublishedStep(other.module, config, [], Clock())
    with torch.no_grad():
        mine, theirs = float(learner.losses(batch, 0)["loss"]), float(port.model(*views, *boxes))
    if abs(mine - theirs) > 1e-3 * abs(mine):
        raise SystemExit(f"the port loses {theirs} on our views, we lose {mine}: it is another method")
    return {"ours": round(mine, 5), "port": round(theirs, 5)}


def loop(asked: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Run the whole loop on a device: what its log says after the warm steps."""
    from infra.log import read_lines
    from infra.store import open_store
    from infra.world import current
    from pretrain.launch import Job, work

    config = config_of(asked)
    reading = config.reading.model_copy(update={"threads": max(1, len(os.sched_getaffinity(0)) - 1)})
    steps = WARM + asked.rounds * asked.steps
    config = config.model_copy(update={"reading": reading, "steps": steps, "log_every": 1, "lanes": 8})
    with tempfile.TemporaryDirectory(dir=folder) as out:
        world = current(asked.device)
        work(Job("di3cl", config, f"{folder}/corpus", out, asked.device, 1 if world.device.type == "cpu" else 0), world)
        lines = [line for line in read_lines(open_store(out), "metrics") if line["step"] >= WARM]
    names = ("images_per_s", "step_s", "data_wait_share", "tflops", "mfu")
    found = {n: statistics.median(line[n] for line in lines) for n in names if n in lines[0]}
    return {"device": str(world.device), "precision": config.precision, **{n: round(v, 4) for n, v in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="di3cl_paper")
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="of a round")
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/step.json")
    asked = parser.parse_args()
    from measure import machine, save
    from pretrain_corpus import make_corpus

    before, side = machine(), 256 if asked.size <= 256 else 512
    results: dict[str, Any] = {
        "what": f"a step of {asked.batch} tiles of {side} x {side}, ResNet-{asked.depth}, {asked.size} px, {asked.run}"
    }
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(f"{folder}/corpus", tiles=max(asked.batch, 24), size=side)
        if asked.loop or asked.device == "cuda":
            results |= {"loop": loop(asked, folder)}
        else:
            results |= {"loss of the same views": losses_of_one_batch(asked, folder), **beside(asked, folder)}
    save(asked.out, before, results)


if __name__ == "__main__":
    main()
