"""`ingest search --asf`: asf_search itself, over TLS, against a server that answers as CMR's granule search does."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from asf_server import AsfServer, asf_server, granule

from infra.command import exit_code
from ingest.cli import app

TIMES = "2021010{day}T051100_2021010{day}T051125"
OLD = f"S1A_IW_GRDH_1SDV_{TIMES.format(day=1)}_036000_0438A1_1111"
NEW = f"S1A_IW_GRDH_1SDV_{TIMES.format(day=1)}_036000_0438A1_0222"
SLC = f"S1A_IW_SLC__1SDV_{TIMES.format(day=1)}_036000_0438A1_3333"
SINGLE = f"S1B_IW_GRDH_1SSV_{TIMES.format(day=2)}_036010_0438B2_4444"
FAR = f"S1A_IW_GRDH_1SDV_{TIMES.format(day=3)}_036020_0438C3_5555"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AsfServer]:
    granules = [
        granule(FAR, "GRD_HD", "VV+VH", "2021-01-03T05:11:00Z", "2021-01-03T08:00:00Z", lon=100, orbit="DESCENDING"),
        granule(SINGLE, "GRD_HS", "VV", "2021-01-02T05:11:00Z", "2021-01-02T08:00:00Z"),
        granule(SLC, "SLC", "VV+VH", "2021-01-01T05:11:00Z", "2021-01-01T08:00:00Z"),
        granule(OLD, "GRD_HD", "VV+VH", "2021-01-01T05:11:00Z", "2021-01-01T08:00:00Z"),
        granule(NEW, "GRD_HD", "VV+VH", "2021-01-01T05:11:01Z", "2022-01-01T08:00:00Z"),
    ]
    with asf_server(tmp_path, granules) as running:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", running.certificate)
        yield running


def search(server: AsfServer, out: Path, *options: str) -> int:
    return exit_code(app, ["search", "--asf", "--asf-host", server.host, "--out", str(out), *options])


def found(out: Path) -> list[str]:
    return [feature["id"] for feature in json.loads(out.read_bytes())["features"]]


def test_a_whole_search(server: AsfServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c.json"
    options = ("--mode", "IW", "--polarisation", "VV,VH", "--product", "GRD", "--platform", "S1A", "--limit", "50")
    where = (
        "--bbox",
        "9.5",
        "45.2",
        "9.9",
        "45.8",
        "--orbit",
        "ascending",
        "--start",
        "2021-01-01",
        "--end",
        "2021-01-02",
    )
    assert search(server, out, *options, *where) == 0
    assert found(out) == [NEW, OLD]
    assert "found 2 of 2 at that place and time; 1 of them superseded" in capsys.readouterr().err
    first, second = json.loads(out.read_bytes())["features"]
    assert first["assets"]["product"]["href"] == f"https://datapool.asf.alaska.edu/GRD_HD/SA/{NEW}.zip"
    assert "canary" not in out.read_text()  # the server's hrefs are signed
    assert first["properties"]["platform"] == "S1A"
    assert first["properties"]["sar:polarizations"] == ["VV", "VH"]
    assert first["properties"]["sat:relative_orbit"] == 15
    assert first["bbox"] == [9.0, 45.0, 11.0, 46.0]
    assert second["properties"]["sarsense:superseded_by"] == NEW
    asked = {key: value for key, value in server.asked[-1]}
    assert asked["bounding_box"] == "9.5,45.2,9.9,45.8"
    assert asked["temporal"].startswith("2021-01-01T00:00:00Z,2021-01-02T23:59:59Z")


def test_everything_there_and_pages(server: AsfServer, tmp_path: Path) -> None:
    """Pages of 250 are followed by the header of CMR; GRD and SLC are searched where nothing is said."""
    for n in range(300):
        hour, minute = divmod(n, 60)
        times = f"20220101T{hour:02d}{minute:02d}00_20220101T{hour:02d}{minute:02d}25"
        name = f"S1A_IW_GRDH_1SDV_{times}_{n:06d}_{n:06X}_0000"
        begin = f"2022-01-01T{hour:02d}:{minute:02d}:00Z"
        server.granules.append(granule(name, "GRD_HD", "VV+VH", begin, "2022-01-02T00:00:00Z"))
    assert search(server, tmp_path / "c.json") == 0
    names = found(tmp_path / "c.json")
    assert len(names) == 305
    assert names[:2] == [SLC, NEW] or names[:2] == [NEW, OLD]
    assert search(server, tmp_path / "c.json", "--limit", "260") == 0
    assert len(found(tmp_path / "c.json")) == 260


def test_a_busy_server_is_asked_again(server: AsfServer, tmp_path: Path) -> None:
    server.faults[:] = [503, 502]
    assert search(server, tmp_path / "c.csv", "--platform", "S1B") == 0
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(
        f"https://datapool.asf.alaska.edu/GRD_HS/SA/{SINGLE}.zip,{SINGLE},S1B,IW,GRD_HS,VV,ascending"
    )


def test_failures(server: AsfServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults[:] = [400]
    assert search(server, tmp_path / "c.json") == 4
    assert "HTTP 400: ['busy']" in capsys.readouterr().err
    assert search(server, tmp_path / "c.json", "--mode", "EW") == 1
    assert "nothing was found" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def test_a_server_that_cannot_prove_its_name_is_refused(
    server: AsfServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert search(server, tmp_path / "c.json", "--timeout-s", "5") == 4
    assert "certificate" in capsys.readouterr().err.lower()
