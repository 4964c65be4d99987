"""From a resolved run to running ranks: in this process, or as a gang on a Ray cluster."""

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from infra.errors import UsageError
from infra.log import Steps, last_line
from infra.record import sha256
from infra.store import Store, StoreError, absolute, open_store
from infra.world import Device, World, current
from pretrain.config import InputSpec, run_digest, validate
from pretrain.export import EncoderCard, read_weights_file, save_encoder
from pretrain.learner import Pretrainer
from pretrain.learners import LEARNERS
from pretrain.loop import Summary, claim, train
from pretrain.methods import RUNS
from pretrain.pair_run import PairRun
from pretrain.reading import open_corpus, open_feed, teller
from pretrain.run_folder import ENCODER, METRICS, brief
from shards.manifest import Manifest
from shards.plan import Plan
from shards.reader import Corpus

WATCH_EVERY_S = 5.0
MAX_SATURATED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """A run with where it reads and writes: what every rank is told."""

    method: str
    config: PairRun
    data: str
    out: str
    device: Device = "auto"
    threads: int = 0

    def plain(self) -> dict[str, Any]:
        """Give the job as plain data, for the way to other machines."""
        return {
            "method": self.method,
            "config": self.config.model_dump(mode="json"),
            "data": absolute(self.data),
            "out": absolute(self.out),
            "device": self.device,
            "threads": self.threads,
        }


def launch(job: Job, *, ranks: int = 1, address: str | None = None, max_failures: int = 3) -> Summary | None:
    """Run a job to its end on ``ranks`` ranks: one in this process, several (or one at ``address``) under Ray.

    Gives the summary where the work was done in this process.
    """
    if ranks == 1 and address is None:
        return work(job, current(job.device))
    from infra.cluster import gang

    gpu = job.device == "cuda" or (job.device == "auto" and torch.cuda.is_available())
    preflight(job, ranks)
    with tempfile.TemporaryDirectory(prefix="sarsense-ray-") as storage, _watched(job):
        gang(
            work_of_rank,
            job.plain(),
            ranks=ranks,
            gpu=gpu,
            cpus_per_rank=max(1, job.threads),
            address=address,
            max_failures=max_failures,
            name=f"pretrain-{job.method}",
            storage=storage,
        )
    return None


def preflight(job: Job, ranks: int) -> None:
    """Refuse at once what every rank would refuse after its start: dials, corpus, another run in ``out``."""
    LEARNERS[job.method].check(job.config, World(size=ranks))
    corpus = Corpus.open(job.data)
    check_levels(corpus, job.config.input)
    claim(open_store(job.out), identity(job.method, job.config, corpus.manifest), job.config, World())


@contextmanager
def _watched(job: Job) -> Iterator[None]:
    """Show the progress of ranks whose own stderr is far away, from what they log."""
    over = threading.Event()

    def watch() -> None:
        store = open_store(job.out)
        with Steps(job.method, 0, job.config.steps) as steps:
            while not over.wait(WATCH_EVERY_S):
                with suppress(StoreError):
                    if line := last_line(store, METRICS):
                        steps.update(line["step"] + 1, brief(line))

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def work_of_rank(plain: Mapping[str, Any]) -> None:
    """Do one rank's part; what Ray calls in each worker, with the process group up."""
    config = validate(RUNS[plain["method"]], plain["config"], "job")
    job = Job(plain["method"], config, plain["data"], plain["out"], plain["device"], max(1, plain["threads"]))
    work(job, current(job.device))


def work(job: Job, world: World) -> Summary:
    """Train in this process as one rank of ``world``, and leave the encoder beside the checkpoints."""
    if job.threads:
        torch.set_num_threads(job.threads)
    config, store = job.config, open_store(job.out)
    corpus = open_corpus(job.data, config.reading)
    check_levels(corpus, config.input)
    learner = LEARNERS[job.method](config, corpus.scale, world)
    plan = Plan(corpus.shard_counts(), config.seed, config.lanes, config.batch, weights=corpus.weights())
    run = identity(job.method, config, corpus.manifest)
    with open_feed(config.reading, corpus, plan, learner.draw, world) as feed:
        tell = teller(config.reading, feed, world)
        summary = train(learner, feed, config, world, store, run, title=job.method, tell=tell)
    if summary.finished and world.lead:
        _export(learner, corpus, store, run, job, summary.step)
    return summary


def check_levels(corpus: Corpus, spec: InputSpec) -> None:
    """Refuse a corpus whose tiles are mostly black or white to the encoder (UsageError, with a range that fits).

    Such a run trains without complaint, on views without content.
    """
    levels_db = np.asarray(corpus.table["mean_db"].combine_chunks().flatten(), dtype=np.float64)
    levels_db = levels_db[np.isfinite(levels_db)]
    if len(levels_db) == 0:
        return
    outside = float(((levels_db < spec.lo_db) | (levels_db > spec.hi_db)).mean())
    if outside > MAX_SATURATED_SHARE:
        low, high = np.percentile(levels_db, [1, 99])
        raise UsageError(
            f"{outside:.0%} of the tiles of {corpus.store.url} have a mean outside {spec.lo_db} .. {spec.hi_db} dB and"
            f" would be all black or white: give --input.lo-db {low - 12:.0f} --input.hi-db {high + 12:.0f}"
        )


def identity(method: str, config: PairRun, manifest: Manifest) -> dict[str, Any]:
    """Give all that decides the result of a run: method, dials, corpus, and the content of starting weights."""
    dials = config.identity()
    if config.encoder.weights is not None:
        dials["encoder"]["weights"] = sha256(read_weights_file(config.encoder.weights))
    return {
        "method": method,
        "dials": dials,
        "manifest": manifest.digest,
        "pixels": manifest.pixels_digest,
    }


def _export(learner: Pretrainer, corpus: Corpus, store: Store, run: Mapping[str, Any], job: Job, step: int) -> None:
    config = job.config
    bands = 1 if config.views.bands == "one" else corpus.shape(0)[0]
    card = EncoderCard(
        method=job.method,
        depth=config.encoder.depth,
        bands=config.encoder.bands,
        input=config.input.model_copy(update={"bands": bands}),
        scale=corpus.scale,
        pixels_digest=corpus.manifest.pixels_digest,
        manifest_digest=corpus.manifest.digest,
        run_digest=run_digest(run),
        step=step,
    )
    save_encoder(store, ENCODER, learner.encoder, card)


def default_threads(ranks: int) -> int:
    """Give each of the ranks on one machine its part of the cores."""
    return max(1, len(os.sched_getaffinity(0)) // ranks)
