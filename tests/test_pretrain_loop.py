"""The loop: schedule, exact resume on one and two ranks, guards, logs."""

import json
import math
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretrain_corpus import ground_tile
from ranks import run_ranks
from torch import Tensor, nn

from infra.errors import UsageError
from infra.log import Steps, read_lines
from infra.store import Store, open_store
from infra.world import World
from pretrain.checkpoint import latest
from pretrain.config import EncoderConfig, Keeping, LoopConfig, Optim, run_digest
from pretrain.di3cl import DI3CL
from pretrain.di3cl_run import ContrastConfig, DI3CLRun, HeadConfig
from pretrain.loop import Diverged, Summary, learning_rate, train
from pretrain.pair_run import ViewConfig
from pretrain.run_folder import checkpoint_keys
from shards.feed import Batch, generator
from shards.tile import DbScale

CONFIG = DI3CLRun(
    steps=6,
    batch=4,
    log_every=1,
    optim=Optim(lr=0.5, warmup_steps=2),
    checkpoint=Keeping(every=4, keep=2),
    encoder=EncoderConfig(depth=18),
    views=ViewConfig(size_px=32, min_box_px=8, boxes=4),
    heads=HeadConfig(hidden=16, dim=8),
    contrast=ContrastConfig(queue=8, momentum=0.9),
)
RUN = {"method": "di3cl", "dials": CONFIG.identity()}


class Tiles:
    """A feed of made-up ground that ends the run where a kill would: after ``until`` batches, without a goodbye."""

    def __init__(self, learner: DI3CL, world: World, until: int | None = None) -> None:
        self._learner, self._world, self._until = learner, world, until

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            if step == self._until:
                raise Killed
            places = range(CONFIG.batch)[self._world.share(CONFIG.batch)]
            drawn = [self._learner.draw(ground_tile(step * 4 + n, 48), generator(0, step, n)) for n in places]
            yield Batch(step, {name: np.stack([d[name] for d in drawn]) for name in drawn[0]}, 0.001)


class Killed(Exception):
    pass


def run(folder: str, world: World, until: int | None = None) -> Summary:
    learner = DI3CL(CONFIG, DbScale(), world)
    return train(learner, Tiles(learner, world, until), CONFIG, world, open_store(folder), RUN)


def last_state(store: Store) -> Mapping[str, Tensor]:
    found = latest(store, run_digest(RUN))
    assert found is not None
    assert found.step == CONFIG.steps
    return found.tensors


def curve(store: Store) -> list[dict[str, Any]]:
    timed = ("images_per_s", "step_s", "tflops", "data_wait_share")
    return [{n: v for n, v in line.items() if n not in timed} for line in read_lines(store, "metrics")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Summary]:
    """A run that was left alone."""
    folder = str(tmp_path_factory.mktemp("finished"))
    return open_store(folder), run(folder, World())


def _broken(world: World, folder: str) -> list[int]:
    began = []
    for until in (1, 5, None):
        try:
            began.append(run(folder, world, until).began)
        except Killed:
            continue
    return began


def assert_same(straight: Store, broken: Store) -> None:
    one, other = last_state(straight), last_state(broken)
    assert one.keys() == other.keys()
    assert {n.split(".")[0] for n in one} == {"module", "optim"}
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert curve(broken) == curve(straight)
    # The newest checkpoint of equal states has equal bytes, hence an equal name.
    assert checkpoint_keys(straight)[0] == checkpoint_keys(broken)[0]


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path, finished: tuple[Store, Summary]):
    assert _broken(World(), str(tmp_path)) == [4]
    assert_same(finished[0], open_store(str(tmp_path)))


def _straight_and_broken(world: World, folder: str) -> list[int]:
    run(f"{folder}/straight", world)
    return _broken(world, f"{folder}/broken")


def test_killed_and_resumed_equals_undisturbed_on_two_ranks(tmp_path: Path):
    assert run_ranks(_straight_and_broken, str(tmp_path), 2, tmp_path) == [[4], [4]]
    assert_same(open_store(f"{tmp_path}/straight"), open_store(f"{tmp_path}/broken"))


def test_every_line_has_what_a_watcher_needs(finished: tuple[Store, Summary]):
    store, summary = finished
    lines = [json.loads(line) for line in store.get("metrics.jsonl").decode().splitlines()]
    assert lines == read_lines(store, "metrics")
    assert [line["step"] for line in lines] == list(range(6))
    assert set(lines[0]) == {
        "step", "loss", "loss_instance", "loss_contour", "loss_region", "top1_instance", "top1_contour",
        "match_instance", "match_contour", "spread_instance", "spread_contour", "lr", "grad_norm",
        "images_per_s", "step_s", "tflops", "data_wait_share",
    }  # fmt: skip
    assert all(math.isfinite(v) for line in lines for v in line.values())
    assert summary.last == {n: v for n, v in lines[-1].items() if n != "step"}
    assert [line["lr"] for line in lines] == [learning_rate(step, CONFIG) for step in range(6)]
    assert any("tfevents" in o.key for o in store.list("tensorboard/"))
    record = json.loads(store.get("run.json"))
    assert record["digest"] == run_digest(RUN)
    assert record["config"] == CONFIG.model_dump(mode="json")


def test_learning_rate_rises_and_falls_per_step():
    config = LoopConfig(steps=100, batch=128, optim=Optim(lr=0.03, warmup_steps=10))
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.0015)
    assert rates[9] == rates[10] == pytest.approx(0.015)
    assert rates[55] == pytest.approx(0.0075)
    assert rates[99] == pytest.approx(0.015 * 0.5 * (1 + math.cos(math.pi * 89 / 90)))
    plain = LoopConfig(steps=4, batch=512, optim=Optim(lr=0.1, lr_batch=None))
    assert learning_rate(0, plain) == 0.1


def test_another_run_in_the_same_place_is_refused_with_both_names(finished: tuple[Store, Summary]):
    learner = DI3CL(CONFIG, DbScale(), World())
    other = {**RUN, "manifest": "c" * 64}
    names = f"{run_digest(RUN)[:12]}, this is run {run_digest(other)[:12]}"
    with pytest.raises(UsageError, match=names):
        train(learner, Tiles(learner, World()), CONFIG, World(), finished[0], other)


def test_a_finished_run_is_not_trained_again(finished: tuple[Store, Summary]):
    again = run(finished[0].url, World(), until=0)
    assert (again.step, again.began, again.finished) == (6, 6, True)
    assert len(curve(finished[0])) == 6


class Line:
    """A learner of one number, to see the loop itself."""

    def __init__(self, bad_from: int = 10**9, bad_until: int = 10**9) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.module.weight)
        self._bad = range(bad_from, bad_until)
        self.after: list[int] = []

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.module.parameters()

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        loss = self.module(batch["x"]).square().mean()
        return {"loss": loss * math.nan if step in self._bad else loss}

    def after_step(self, step: int) -> None:
        self.after.append(step)


class Ones:
    def __init__(self, signal_at: int | None = None, event: threading.Event | None = None) -> None:
        self._signal_at, self._event = signal_at, event

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            if step == self._signal_at and self._event is None:
                os.kill(os.getpid(), signal.SIGTERM)
            elif step == self._signal_at and self._event is not None:
                self._event.set()
            yield Batch(step, {"x": np.ones((2, 1), np.float32)}, 0.0)


LINE = LoopConfig(steps=12, batch=2, log_every=100, optim=Optim(lr=0.01, lr_batch=None, weight_decay=0, momentum=0))


def test_steps_are_those_of_gradient_descent(tmp_path: Path):
    learner, weight = Line(), 1.0
    train(learner, Ones(), LINE, World(), open_store(str(tmp_path)), {"a": 1})
    for step in range(12):
        weight -= learning_rate(step, LINE) * 2 * weight
    assert learner.module.weight.item() == pytest.approx(weight, rel=1e-5)


def test_a_bad_step_is_left_out_and_told(tmp_path: Path):
    learner = Line(bad_from=3, bad_until=5)
    summary = train(learner, Ones(), LINE, World(), open_store(str(tmp_path)), {"a": 1})
    assert summary.finished
    assert learner.after == [s for s in range(12) if s not in (3, 4)]
    lines = read_lines(open_store(str(tmp_path)), "metrics")
    assert [line["step"] for line in lines] == [3, 4, 11]
    assert math.isnan(lines[0]["loss"])


def test_a_run_that_diverges_ends_with_its_last_good_checkpoint(tmp_path: Path):
    config = LINE.model_copy(update={"max_bad_steps": 3, "checkpoint": Keeping(every=1, keep=2)})
    with pytest.raises(Diverged, match=r"3 steps in a row, up to step 6.*--optim\.lr"):
        train(Line(bad_from=4), Ones(), config, World(), open_store(str(tmp_path)), {"a": 1})
    found = latest(open_store(str(tmp_path)), run_digest({"a": 1}))
    assert found is not None
    assert found.step == 4


@pytest.mark.parametrize("event", [None, threading.Event()])
def test_a_stop_saves_and_the_next_start_goes_on(tmp_path: Path, event: threading.Event | None):
    store, before = open_store(str(tmp_path)), signal.getsignal(signal.SIGTERM)
    stopped = train(Line(), Ones(5, event), LINE, World(), store, {"a": 1}, stop=event)
    assert (stopped.step, stopped.finished) == (6, False)
    assert signal.getsignal(signal.SIGTERM) is before
    learner = Line()
    summary = train(learner, Ones(), LINE, World(), store, {"a": 1})
    assert (summary.began, summary.finished) == (6, True)
    straight = Line()
    train(straight, Ones(), LINE, World(), open_store(f"{tmp_path}/straight"), {"a": 1})
    assert torch.equal(learner.module.weight, straight.module.weight)


def test_progress_is_lines_where_there_is_no_terminal(tmp_path: Path):
    with (tmp_path / "out").open("w") as out:
        with Steps("train", 0, 3, stream=out) as steps:
            for done in range(1, 4):
                steps.update(done, "loss 1")
        with Steps("quiet", 0, 3, quiet=True, stream=out) as steps:
            steps.update(3)
    assert (tmp_path / "out").read_text() == "train 1/3 loss 1\ntrain 3/3 loss 1\n"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_cuts_the_note_and_never_the_numbers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with Steps("di3cl", 0, 300, stream=out) as steps:
        steps.update(15, "loss 13.19, 78.6 images/s, 0.0% waiting for data")
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).strip().splitlines()[-1]
    assert "15/300" in last
    assert "0:00:00" in last
    assert "loss 13.19, 78.6" in last
    assert len(last) <= 80
