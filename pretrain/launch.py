"""From a resolved run to running ranks: in this process, as one of those started around it, or as a gang on Ray."""

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from infra.allocator import keep_freed_memory
from infra.errors import UsageError
from infra.log import Steps, last_line
from infra.place import find_place, rank_range
from infra.record import sha256
from infra.rendezvous import TIMEOUT_S, joined
from infra.store import Store, StoreError, absolute, open_store
from infra.world import Device, World, current
from pretrain.config import InputSpec, run_digest, validate
from pretrain.environment import command_line, record_start
from pretrain.export import EncoderCard, read_weights_file, save_encoder
from pretrain.learner import Pretrainer
from pretrain.learners import LEARNERS
from pretrain.loop import Summary, claim, train
from pretrain.methods import RUNS
from pretrain.pair_run import PairRun
from pretrain.partners import with_partners
from pretrain.reading import open_corpus, open_feed, teller
from pretrain.run_folder import ENCODER, METRICS, brief, checkpoint_keys, checkpoint_name
from pretrain.watch import begin_watching, check_watch
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


def launch(
    job: Job,
    *,
    ranks: int | str = 1,
    address: str | None = None,
    max_failures: int = 3,
    timeout_s: float = TIMEOUT_S,
) -> Summary | None:
    """Run a job to its end: as one rank among those that torchrun or srun started, else on ``ranks`` ranks.

    One rank is this process, several (or one at ``address``) are a gang under Ray; ``2..4`` is an elastic one. A rank
    that waits longer than ``timeout_s`` for the others gives them up. Gives the summary where the work was done in this
    process, or ended early.
    """
    least, most = rank_range(ranks)
    place = find_place(os.environ)
    if place is not None:
        if (least, most) not in ((1, 1), (place.size, place.size)):
            raise UsageError(f"--ranks {ranks} inside a start of {place.size} ranks: leave --ranks out there")
        LEARNERS[job.method].check(job.config, World(size=place.size))
        with joined(place, gpu=_on_gpu(job), timeout_s=timeout_s):
            return work(job, current(job.device))
    if most == 1 and address is None:
        return work(job, current(job.device))
    return _launch_gang(job, fitting_sizes(job, least, most), address, max_failures, timeout_s)


def _launch_gang(
    job: Job, sizes: Sequence[int], address: str | None, max_failures: int, timeout_s: float
) -> Summary | None:
    from infra.gang import gang

    preflight(job, sizes[-1])
    with tempfile.TemporaryDirectory(prefix="sarsense-ray-") as storage, _watched(job):
        finished = gang(
            work_of_rank,
            job.plain(),
            ranks=sizes[0] if len(sizes) == 1 else sizes,
            gpu=_on_gpu(job),
            cpus_per_rank=max(1, job.threads),
            address=address,
            max_failures=max_failures,
            timeout_s=timeout_s,
            name=f"pretrain-{job.method}",
            storage=storage,
        )
    if finished:
        return None
    saved = [name[0] for key in checkpoint_keys(open_store(job.out)) if (name := checkpoint_name(key))]
    return Summary(max(saved, default=0), 0, False, {})


def _on_gpu(job: Job) -> bool:
    return job.device == "cuda" or (job.device == "auto" and torch.cuda.is_available())


def fitting_sizes(job: Job, least: int, most: int) -> list[int]:
    """Give the numbers of ranks among which the global batch divides. Raises UsageError where none does."""
    fitting, refusals = list[int](), list[UsageError]()
    for size in range(least, most + 1):
        try:
            LEARNERS[job.method].check(job.config, World(size=size))
            fitting.append(size)
        except UsageError as error:
            refusals.append(error)
    if not fitting:
        raise refusals[0]
    return fitting


def preflight(job: Job, ranks: int) -> None:
    """Refuse at once what every rank would refuse after its start: dials, corpus, another run in ``out``."""
    LEARNERS[job.method].check(job.config, World(size=ranks))
    corpus = Corpus.open(job.data)
    check_levels(corpus, job.config.input)
    check_watch(job.config)
    store = open_store(job.out)
    claim(store, identity(job.method, job.config, corpus.manifest), job.config, World())
    record_start(store, place="launcher", command=command_line(), data=job.data, ranks=ranks)


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


def work_of_rank(plain: Mapping[str, Any], stop: threading.Event) -> bool:
    """Do one rank's part; what Ray calls in each worker, with the process group up. Says whether the run is done."""
    config = validate(RUNS[plain["method"]], plain["config"], "job")
    job = Job(plain["method"], config, plain["data"], plain["out"], plain["device"], max(1, plain["threads"]))
    return work(job, current(job.device), stop).finished


def work(job: Job, world: World, stop: threading.Event | None = None) -> Summary:
    """Train in this process as one rank of ``world``, and leave the encoder beside the checkpoints.

    ``stop`` ends it early, with a checkpoint.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    if world.device.type == "cpu":
        keep_freed_memory()
    config, store = job.config, open_store(job.out)
    corpus = open_corpus(job.data, config.reading)
    check_levels(corpus, config.input)
    learner = LEARNERS[job.method](config, corpus.scale, world)
    plan = Plan(corpus.shard_counts(), config.seed, config.lanes, config.batch, weights=corpus.weights())
    run = identity(job.method, config, corpus.manifest)
    claim(store, run, config, world)
    if world.lead:
        record_start(store, place="rank 0", command=command_line(), data=job.data, ranks=world.size)
    with open_feed(config.reading, corpus, plan, with_partners(learner.draw, corpus, config), world) as feed:
        tell = teller(config.reading, feed, world)
        watch, trackers = begin_watching(config, learner, corpus.scale, store, run, world, job.method)
        summary = train(
            learner,
            feed,
            config,
            world,
            store,
            run,
            title=job.method,
            stop=stop,
            tell=tell,
            watch=watch,
            trackers=trackers,
        )
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
    bands = 1 if config.views.bands != "all" else corpus.shape(0)[0]
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


def default_threads(ranks: int | str) -> int:
    """Give each of the ranks on one machine its part of the cores; torchrun and srun say how many are here."""
    place = find_place(os.environ)
    here = place.neighbours if place is not None else rank_range(ranks)[1]
    return max(1, len(os.sched_getaffinity(0)) // here)
