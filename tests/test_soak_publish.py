"""Publication under fire: racing writers, polling readers, a writer that dies at any of its steps."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from corpora import make_corpus
from soak_driver import die_before_step

from infra.errors import ConflictError, UsageError
from infra.store import Store, open_store
from shards.heads import head
from shards.manifest import ANY, Manifest, current_digest, publish, read_manifest

ROUNDS = int(os.environ.get("SARSENSE_SOAK_ROUNDS", "100"))
WRITERS, READERS = 8, 2


def version(first: Manifest, number: int, writer: int) -> Manifest:
    return Manifest.model_validate(first.model_dump() | {"recipe": {"round": number, "writer": writer}})


def write(url: str, first: Manifest, writer: int, rounds: int, start: Barrier, results: "Queue[Any]") -> None:
    """Take part in every round: follow the version that all see, and say whether this one became the next."""
    store, won = open_store(url), []
    for number in range(rounds):
        start.wait(120)
        before = current_digest(store)
        rival = version(first, number, writer)
        start.wait(120)
        try:
            won.append(publish(store, rival, after=before) == rival.digest)
        except ConflictError:
            won.append(False)
    results.put((writer, won))


def read(url: str, done: Event, results: "Queue[Any]") -> None:
    """Poll the corpus, and give what came: how often there was none, and the versions in the order of their coming."""
    absent, looks, seen = 0, 0, [(-1, -1)]
    while not done.is_set():
        try:
            recipe = read_manifest(url)[1].recipe
        except UsageError:
            absent += 1
            assert seen == [(-1, -1)]  # what was there once is there for good
            continue
        looks += 1
        if (found := (recipe["round"], recipe["writer"])) != seen[-1]:
            seen.append(found)
    results.put((absent, looks, seen[1:]))


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "corpus") if request.param == "folder" else f"{request.getfixturevalue('s3_url')}/corpus"


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_of_eight_writers_one_wins_each_round_and_readers_only_see_winners_in_order(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    _, first = make_corpus("memory://soak-publish", (3,))
    start, done = context.Barrier(WRITERS), context.Event()
    won, seen = context.Queue(), context.Queue()
    readers = [context.Process(target=read, args=(url, done, seen)) for _ in range(READERS)]
    writers = [context.Process(target=write, args=(url, first, n, ROUNDS, start, won)) for n in range(WRITERS)]
    begin = time.monotonic()
    for process in readers + writers:
        process.start()
    try:
        results = dict(won.get(timeout=1500) for _ in writers)
        seconds = time.monotonic() - begin
        done.set()
        views = [seen.get(timeout=60) for _ in readers]
    finally:
        done.set()
        for process in readers + writers:
            process.join(30)
            process.kill()
    winners = [[n for n in range(WRITERS) if results[n][number]] for number in range(ROUNDS)]
    assert [len(those) for those in winners] == [1] * ROUNDS
    store = open_store(url)
    assert head(store) == (ROUNDS, version(first, ROUNDS - 1, winners[-1][0]).digest)
    assert read_manifest(url)[1].digest == head(store)[1]
    for _, looks, versions in views:
        assert looks > 0
        assert all(winners[number] == [writer] for number, writer in versions)
        assert [number for number, _ in versions] == sorted({number for number, _ in versions})  # never one before
    shares = {n: sum(results[n]) for n in range(WRITERS)}
    sys.stdout.write(
        f"\n{url.split(':')[0]}: {ROUNDS} rounds of {WRITERS} writers in {seconds:.0f} s, one winner in each, wins"
        f" {shares}; readers looked {[looks for _, looks, _ in views]} times (and {[n for n, *_ in views]} times before"
        f" the first version), saw {[len(v) for *_, v in views]} versions, all whole and in order\n"
    )


def follow(url: str, first: Manifest, writer: int, rounds: int, results: "Queue[Any]") -> None:
    """Publish after whatever is there, again and again."""
    store, won = open_store(url), 0
    for number in range(rounds):
        try:
            publish(store, version(first, number, writer), ANY)
            won += 1
        except ConflictError:
            continue
    results.put(won)


def watch(url: str, done: Event, results: "Queue[Any]") -> None:
    """Poll number and content of the current version; count how often ``manifest.json`` went back to an older one."""
    store, last, looks, back = open_store(url), 0, 0, 0
    newest, age = 0, {}
    while not done.is_set():
        number, digest = head(store)
        assert number >= last, "heads/ went back"
        last = number
        if digest is not None:
            age.setdefault(digest, number)
        try:
            shown = read_manifest(url)[1].digest
        except UsageError:
            continue
        looks += 1
        at = age.get(shown, newest)
        back += at < newest
        newest = max(newest, at)
    results.put((looks, back))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_where_versions_follow_one_another_in_a_moment_all_are_whole_and_the_last_one_stays(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    _, first = make_corpus("memory://soak-follow", (3,))
    done, won, seen = context.Event(), context.Queue(), context.Queue()
    reader = context.Process(target=watch, args=(url, done, seen))
    writers = [context.Process(target=follow, args=(url, first, n, ROUNDS // 4, won)) for n in range(WRITERS)]
    for process in [reader, *writers]:
        process.start()
    try:
        wins = [won.get(timeout=1500) for _ in writers]
        done.set()
        looks, back = seen.get(timeout=60)
    finally:
        done.set()
        for process in [reader, *writers]:
            process.join(30)
            process.kill()
    store = open_store(url)
    assert head(store)[0] == sum(wins) > 0
    assert read_manifest(url)[1].digest == head(store)[1]
    sys.stdout.write(
        f"\n{url.split(':')[0]}: {sum(wins)} versions of {WRITERS} writers without pause; a reader looked {looks}"
        f" times, all whole; {back} times it was shown one older than before, for a moment\n"
    )


# ---------------------------------------------------------------- a writer that dies


def died(url: str, manifest: Manifest, after: str | None, step: int) -> bool:
    """Publish in a process that is killed before it gives a file its name for the ``step``-th time."""
    pid = os.fork()
    if pid == 0:
        die_before_step(step)
        try:
            publish(open_store(url), manifest, after=after)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def corpora(tmp_path: Path) -> Iterator[tuple[str, Store, Manifest]]:
    """The same corpus again and again."""

    def fresh() -> Iterator[tuple[str, Store, Manifest]]:
        for number in range(10):
            yield str(tmp_path / str(number)), *make_corpus(str(tmp_path / str(number)), (2,))

    return fresh()


def test_a_writer_that_dies_at_any_step_leaves_the_old_version_or_the_new_one(
    corpora: Iterator[tuple[str, Store, Manifest]],
) -> None:
    states = []
    for step, (url, store, first) in enumerate(corpora):
        mine = version(first, 1, 1)
        killed = died(url, mine, first.digest, step)
        states.append((head(store)[0], read_manifest(url)[1].digest == mine.digest))
        assert read_manifest(url)[1].digest in (first.digest, mine.digest)
        publish(store, mine, after=first.digest)  # the same command again
        assert head(store) == (2, mine.digest)
        assert read_manifest(url)[1].digest == mine.digest
        if not killed:
            break
    assert states == [(1, False), (1, False), (2, False), (2, True)]  # before its version, head, manifest.json; whole


def test_after_a_writer_that_died_the_next_one_wins_or_is_told(
    corpora: Iterator[tuple[str, Store, Manifest]],
) -> None:
    for step, (url, store, first) in zip(range(3), corpora, strict=False):
        mine, other = version(first, 1, 1), version(first, 1, 2)
        assert died(url, mine, first.digest, step)
        if step < 2:
            publish(store, other, after=first.digest)
        else:  # the dead one's version counts, though no reader was shown it
            with pytest.raises(ConflictError, match=mine.digest[:16]):
                publish(store, other, after=first.digest)
            publish(store, other, after=mine.digest)
        assert read_manifest(url)[1].digest == other.digest == head(store)[1]


def test_the_same_version_of_two_writers_is_no_conflict(tmp_path: Path) -> None:
    from shards.heads import take_head

    store, first = make_corpus(str(tmp_path), (2,))
    take_head(store, 2, "a" * 64, first.digest)
    take_head(store, 2, "a" * 64, first.digest)
    with pytest.raises(ConflictError, match="at the same moment"):
        take_head(store, 2, "b" * 64, first.digest)
