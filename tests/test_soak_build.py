"""The build under fire: killed, told to stop, without room, behind a bad network; the corpus is always the same one."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from fault_proxy import FAULTS, Weather, weather_before
from s3_server import S3Server
from soak_driver import Drivers

from infra import local_cluster
from infra.local_cluster import LocalCluster
from infra.objects import PART_PREFIX
from infra.record import digest, sha256
from infra.store import Store, open_store
from ingest.simulate import simulate_catalog
from shards.heads import head
from shards.manifest import read_manifest
from shards.reader import Corpus
from shards.verify import verify

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]
ROUNDS = int(os.environ.get("SARSENSE_SOAK_ROUNDS", "100"))
SCENES = 6


@pytest.fixture(scope="module")
def weather(s3_server: S3Server) -> Iterator[Weather]:
    with weather_before(s3_server.environment["AWS_ENDPOINT_URL"]) as weather:
        yield weather


@pytest.fixture(scope="module")
def cluster(weather: Weather, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One node for all rounds; its workers reach S3 through the weather."""
    variables = s3_server.environment | {"AWS_ENDPOINT_URL": weather.endpoint, "OMP_NUM_THREADS": "1"}
    with local_cluster.start(tmp_path_factory.mktemp("ray"), nodes=1, cpus=2, environment=variables) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def drivers(cluster: LocalCluster, weather: Weather, s3_server: S3Server) -> Iterator[Drivers]:
    variables = s3_server.environment | {"AWS_ENDPOINT_URL": weather.endpoint, "OMP_NUM_THREADS": "1"}
    with Drivers(cluster.environment | variables) as drivers:
        yield drivers


@dataclass
class Straight:
    """A build that nothing disturbed."""

    command: Callable[[str], list[str]]
    out: Path
    seconds: float

    @property
    def objects(self) -> dict[str, str]:
        return content(open_store(str(self.out)))


@pytest.fixture(scope="module")
def straight(drivers: Drivers, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    folder = tmp_path_factory.mktemp("straight")
    catalog = simulate_catalog(folder / "scenes", scenes=SCENES, rows=280, cols=300, seed=5)

    def command(out: str) -> list[str]:
        return ["build-sarsense", str(catalog), "--out", out, "--json"]

    assert drivers.run(command(str(folder / "warm")), folder / "log") == 0  # the workers have loaded everything now
    begin = time.monotonic()
    assert drivers.run(command(str(folder / "out")), folder / "log") == 0
    return Straight(command, folder / "out", time.monotonic() - begin)


def content(store: Store) -> dict[str, str]:
    """Digests of all objects."""
    return {found.key: sha256(store.get(found.key)) for found in store.list()}


def assert_all_objects_whole(store: Store) -> None:
    """Nothing half-written can be seen, whether a version names it or not."""
    for found in store.list():
        data = store.get(found.key)
        named = re.fullmatch(r"(?:shards|index)/.*-([0-9a-f]{12})\.(?:tar|parquet)", found.key)
        if named:
            assert sha256(data).startswith(named[1]), found.key
        elif found.key.startswith("manifests/"):
            assert found.key == f"manifests/{sha256(data)}.json"
        elif found.key.startswith("recipes/"):
            assert found.key == f"recipes/{digest(json.loads(data))}.json"
        elif found.key.startswith("units/") and found.key.endswith(".parquet"):
            pq.read_table(BytesIO(data))
        elif found.key.endswith(".json"):
            json.loads(data)
        elif found.key.endswith(".png"):
            assert data[-8:-4] == b"IEND"
        else:
            assert found.key == "report.html"
            assert data.endswith(b"</html>\n")
    if any(found.key == "manifest.json" for found in store.list()):
        assert verify(Corpus.open(store.url), deep=True).ok


def of_finished_units(out: Path) -> tuple[int, dict[Path, tuple[int, int]]]:
    """How many units have a record, and which files those name: doing a unit again would give a file a new inode."""
    records = [json.loads(file.read_bytes()) for file in out.glob("units/*.json")]
    files = [out / shard["key"] for record in records for shard in record["shards"]]
    files += [out / f"units/{record['name']}.json" for record in records]
    return len(records), {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def told(log: Path) -> dict[str, object]:
    """The result that a build printed as JSON."""
    return dict(json.loads(next(line for line in log.read_text().splitlines() if line.startswith("{"))))


def workers(cluster: LocalCluster) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(cluster.nodes[0]).children(recursive=True):
        try:
            name = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if name.startswith("ray::") and "Agent" not in name:
            found.append(process)
    return found


def strike(chance: random.Random, cluster: LocalCluster, driver: int) -> str:
    """kill -9 the driver or one of the workers; say which."""
    victims = workers(cluster) if chance.random() < 0.5 else []
    if victims:
        victim = chance.choice(victims)
        doing = victim.cmdline()[0].strip()
        victim.kill()
        return doing
    os.kill(driver, signal.SIGKILL)
    return "driver"


def test_killed_at_any_moment_and_run_again_the_build_makes_the_same_corpus(
    drivers: Drivers, cluster: LocalCluster, straight: Straight, tmp_path: Path
) -> None:
    chance, log = random.Random(4), tmp_path / "log"
    kills: Counter[str] = Counter()
    moments: Counter[str] = Counter()
    begin, runs, corpora, parts = time.monotonic(), 0, 0, 0
    expected = straight.objects
    while kills.total() < ROUNDS:
        out = tmp_path / "out"
        code: int | None = None
        while code != 0:
            units, files = of_finished_units(out)
            driver = drivers.start(straight.command(str(out)), log)
            runs += 1
            if kills.total() < ROUNDS:
                end = time.monotonic() + chance.uniform(0, 1.2 * straight.seconds)
                while time.monotonic() < end and (code := drivers.code(driver)) is None:
                    time.sleep(0.005)
                if (code := drivers.code(driver)) is None:
                    moments[f"{of_finished_units(out)[0]} units"] += 1
                    kills[strike(chance, cluster, driver)] += 1
            code = drivers.wait(driver)
            assert code in (0, -signal.SIGKILL), log.read_text()
            assert_all_objects_whole(open_store(str(out)))
            assert {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files} == files
            if code == 0:
                result = told(log)
                assert result["rejects"] == 0
                assert result["resumed"] >= units
        corpora += 1
        assert content(open_store(str(out))) == expected
        parts += len(list(out.rglob(f"{PART_PREFIX}*")))
        shutil.rmtree(out)
        sys.stdout.write(f"\n{kills.total()} kills, {corpora} corpora, {time.monotonic() - begin:.0f} s")
    sys.stdout.write(
        f"\n{kills.total()} kills in {runs} runs for {corpora} corpora, {time.monotonic() - begin:.0f} s, a straight"
        f" build takes {straight.seconds:.1f} s; killed: {dict(kills)}; when so many units were done:"
        f" {dict(sorted(moments.items()))}; {parts} hidden part files were left\n"
    )


def test_a_driver_killed_before_any_of_its_files_has_its_name_is_followed_by_one_that_ends_the_work(
    drivers: Drivers, straight: Straight, tmp_path: Path
) -> None:
    """Not at random: before every single file that the driver itself gives a name, with all units done."""
    seen = []
    for step in range(100):
        out = tmp_path / str(step)
        shutil.copytree(straight.out, out, ignore=shutil.ignore_patterns("manifest*", "heads", "index", "report.html"))
        code = drivers.run(straight.command(str(out)), tmp_path / "log", step)
        assert_all_objects_whole(open_store(str(out)))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        seen.append((len(list(out.glob("heads/*.json"))), (out / "manifest.json").exists()))
        assert drivers.run(straight.command(str(out)), tmp_path / "log") == 0
        assert told(tmp_path / "log")["resumed"] == SCENES
        assert content(open_store(str(out))) == straight.objects
    # recipe, index, version, head, manifest.json, report.html
    assert seen == [(0, False), (0, False), (0, False), (0, False), (1, False), (1, True)]


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_behind_a_bad_network_the_corpus_is_the_same_with_bounded_retries(
    drivers: Drivers, straight: Straight, weather: Weather, s3_url: str, tmp_path: Path, share: float
) -> None:
    def build(name: str) -> int:
        before = len(weather.requests)
        assert drivers.run(straight.command(f"{s3_url}/{name}"), tmp_path / "log") == 0, (tmp_path / "log").read_text()
        assert told(tmp_path / "log")["manifest"] == sha256((straight.out / "manifest.json").read_bytes())
        return len(weather.requests) - before

    fair = build("fair")
    chance, met = random.Random(9), Counter[str]()

    def fault(method: str, number: int) -> str | None:
        if chance.random() >= share:
            return None
        kind = chance.choice([kind for kind in FAULTS if kind != "silence"])  # which costs 30 s of waiting each
        met[kind] += 1
        return kind

    weather.fault = fault
    try:
        begin = time.monotonic()
        foul = [build(f"foul-{n}") for n in range(5)]
        seconds = (time.monotonic() - begin) / 5
    finally:
        weather.fault = lambda method, number: None
    extra = sum(foul) - 5 * fair
    assert met.total() > 5 * fair * share / 2
    assert 0 < extra <= 1.5 * met.total()  # one attempt for each, and a look where the answer to a put-once was lost
    assert extra <= {0.05: 0.2, 0.2: 0.5}[share] * 5 * fair
    for n in range(5):
        store = open_store(f"{s3_url}/foul-{n}")
        assert content(store) == straight.objects
        assert verify(Corpus.open(store.url), deep=True).ok
    sys.stdout.write(
        f"\n{share:.0%} of requests failing: {fair} requests in fair weather, {foul} in foul, {met.total()} faults"
        f" {dict(met)}, {extra / (5 * fair):.1%} more requests, {seconds:.1f} s a build"
        f" ({straight.seconds:.1f} on disk)\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_told_to_stop_says_what_is_done_and_goes_on_from_there(
    drivers: Drivers, cluster: LocalCluster, straight: Straight, tmp_path: Path, number: signal.Signals
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    driver = drivers.start(straight.command(str(out)), log)
    while not list(out.glob("units/*.json")):
        assert drivers.code(driver) is None
        time.sleep(0.005)
    os.kill(driver, number)
    begin = time.monotonic()
    assert drivers.wait(driver) == 130, log.read_text()
    seconds = time.monotonic() - begin
    assert seconds < 20
    said = re.search(r"ingest: interrupted: (\d) of 6 units are done and stay; run the same command", log.read_text())
    assert said, log.read_text()
    begun = time.monotonic()
    while any("build_unit" in " ".join(worker.cmdline()) for worker in workers(cluster)):
        assert time.monotonic() < begun + 10, "a worker goes on though its driver has ended"
        time.sleep(0.1)
    units, _ = of_finished_units(out)
    assert 1 <= units < SCENES
    assert not (out / "manifest.json").exists()
    assert_all_objects_whole(open_store(str(out)))
    assert drivers.run(straight.command(str(out)), log) == 0
    assert told(log)["resumed"] == units
    assert content(open_store(str(out))) == straight.objects
    sys.stdout.write(f"\n{number.name}: ended in {seconds:.2f} s with {units} of {SCENES} units done\n")


def test_a_second_signal_ends_a_build_at_once(drivers: Drivers, straight: Straight, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    driver = drivers.start(straight.command(str(out)), log)
    while not list(out.glob("units/*.json")):
        time.sleep(0.005)
    begin = time.monotonic()
    for _ in range(20):
        if drivers.code(driver) is None:
            os.kill(driver, signal.SIGTERM)
            time.sleep(0.05)
    assert drivers.wait(driver) in (130, -signal.SIGTERM), log.read_text()
    assert time.monotonic() - begin < 5
    assert drivers.run(straight.command(str(out)), log) == 0
    assert content(open_store(str(out))) == straight.objects


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many bytes; asked again, the same one with another size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def sized(size: int) -> Path:
        again = ["-o", f"remount,size={size}"] if disk.is_mount() else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        done = subprocess.run(["mount", *again, str(disk)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip("mounting a small disk is not allowed here: run as root with the right to mount")
        return disk

    yield sized
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.7, 0.95, 0.99])
def test_a_full_disk_is_told_and_with_more_room_the_build_goes_on(
    drivers: Drivers, straight: Straight, small_disk: Callable[[int], Path], tmp_path: Path, share: float
) -> None:
    taken = sum(-(-path.stat().st_size // 4096) * 4096 for path in straight.out.rglob("*") if path.is_file())
    out, log = small_disk(int(share * taken)) / "out", tmp_path / "log"
    assert drivers.run(straight.command(str(out)), log) == 4
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("ingest: error:")]
    assert "No space left on device; free some space there or choose another folder" in line
    assert "Traceback" not in log.read_text()
    assert list(out.rglob(f"{PART_PREFIX}*")) == []
    assert_all_objects_whole(open_store(str(out)))
    units, _ = of_finished_units(out)
    small_disk(4 * taken)
    assert drivers.run(straight.command(str(out)), log) == 0
    assert told(log)["resumed"] == units
    assert content(open_store(str(out))) == straight.objects
    sys.stdout.write(f"\na disk of {share:.0%} of what the corpus takes: {units} of {SCENES} units were done\n")


def test_two_builds_of_the_same_at_the_same_time_both_end_well(
    drivers: Drivers, straight: Straight, tmp_path: Path
) -> None:
    for number in range(5):
        out = tmp_path / str(number)
        pair = [drivers.start(straight.command(str(out)), tmp_path / f"log-{n}") for n in range(2)]
        assert [drivers.wait(driver) for driver in pair] == [0, 0], (tmp_path / "log-1").read_text()
        assert content(open_store(str(out))) == straight.objects
        assert read_manifest(str(out))[1].tiles == 4 * SCENES


def test_a_build_overtaken_at_the_last_moment_changes_nothing_of_the_winner(
    drivers: Drivers, straight: Straight, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    assert drivers.wait(drivers.start(straight.command(str(out)), log, overtaken=str(out))) == 5
    assert "was published at" in log.read_text()
    assert (out / "report.html").read_bytes() == b"of the other one"
    assert (out / "quarantine/other.json").exists()
    assert not (out / "manifest.json").exists()
    assert head(open_store(str(out))) == (1, "f" * 64)
