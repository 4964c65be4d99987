"""`ingest search --stac` against a STAC API over HTTP: what is found, what is written, and what never is."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import shapely
from stac_server import FILTER, QUERY, StacServer, serving, stac_server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from infra.command import exit_code
from ingest.catalog import read_catalog
from ingest.cli import app
from ingest.simulate import simulate_sentinel1

CANARY = "canary5e7"


def item(number: int, **changes: Any) -> dict[str, Any]:
    """An item as the Planetary Computer gives it, with a signed href on it."""
    start = datetime(2024, 1, 1) + timedelta(hours=number)
    orbit = 50_000 + number
    polarisations = changes.pop("polarisations", ["VV", "VH"])
    name = changes.pop(
        "name",
        f"S1A_IW_GRDH_1SDV_{start:%Y%m%dT%H%M%S}_{start + timedelta(seconds=25):%Y%m%dT%H%M%S}_{orbit:06d}_{orbit:06X}",
    )
    lon, lat = changes.pop("lon", 9.0), changes.pop("lat", 45.0)
    root = f"https://euwest.example.net/s1-grd/GRD/2024/{name}_A{number % 4096:03X}"
    properties = {
        "datetime": f"{start:%Y-%m-%dT%H:%M:%S.123456Z}",
        "start_datetime": f"{start:%Y-%m-%d %H:%M:%S}.123456+00:00",
        "end_datetime": f"{start:%Y-%m-%d %H:%M:%S}.999999+00:00",
        "platform": "SENTINEL-1A",
        "sar:instrument_mode": "IW",
        "sar:polarizations": polarisations,
        "sar:product_type": "GRD",
        "sat:orbit_state": "ascending" if number % 2 else "descending",
        "s1:shape": [26568, 16670],
        "empty": {},
        **changes,
    }
    ring = [[lon, lat], [lon + 2, lat], [lon + 2, lat + 1], [lon, lat + 1], [lon, lat]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/sar/v1.0.0/schema.json"],
        "id": name,
        "collection": "sentinel-1-grd",
        "geometry": {"type": "MultiPolygon", "coordinates": [[ring]]},
        "bbox": [lon, lat, lon + 2, lat + 1],
        "properties": properties,
        "links": [
            {"rel": "self", "href": f"https://user:{CANARY}@api.example.net/items/{name}?token={CANARY}"},
            {"rel": "next", "href": "https://api.example.net/", "headers": {"Authorization": f"Bearer {CANARY}"}},
        ],
        "assets": {
            "vv": {"href": f"{root}/measurement/iw-vv.tiff?sv=2024&sig={CANARY}", "raster:bands": [{}]},
            "safe-manifest": {"href": f"{root}/manifest.safe?X-Amz-Signature={CANARY}#{number}"},
        },
    }


ITEMS = [item(number) for number in range(300)] + [
    item(700, polarisations=["VV"]),
    item(701, platform="sentinel-1c"),
    item(702, lon=100.0),
    item(703, **{"sar:instrument_mode": "EW"}),
    item(704, **{"sar:product_type": None, "product:type": "IW_SLC__1S"}),
]


@pytest.fixture(scope="module", params=[(), (FILTER,), (QUERY,)], ids=["plain", "cql2", "query"])
def server(request: pytest.FixtureRequest) -> Iterator[StacServer]:
    with stac_server({"sentinel-1-grd": ITEMS, "landsat": []}, request.param) as running:
        yield running


@pytest.fixture(scope="module")
def plain() -> Iterator[StacServer]:
    with stac_server({"sentinel-1-grd": ITEMS, "landsat": []}) as running:
        yield running


def search(server: StacServer, out: Path, *options: str, collection: str = "sentinel-1-grd") -> int:
    server.bodies.clear()
    return exit_code(app, ["search", "--stac", server.url, "--collection", collection, "--out", str(out), *options])


def found(out: Path) -> list[str]:
    return [feature["id"] for feature in json.loads(out.read_bytes())["features"]]


def test_every_kind_of_server_gives_the_same(server: StacServer, tmp_path: Path) -> None:
    """Filtering by the server and here take the same items; pages are followed to the end."""
    options = (
        "--mode",
        "IW",
        "--orbit",
        "ascending",
        "--polarisation",
        "VV,VH",
        "--product",
        "GRD",
        "--platform",
        "S1A",
    )
    assert search(server, tmp_path / "c.json", *options, "--bbox", "9.5", "45.2", "9.9", "45.8") == 0
    assert found(tmp_path / "c.json") == [ITEMS[number]["id"] for number in range(1, 300, 2)]
    filtered = server.client.base_conformance_classes[-1] in (FILTER, QUERY)
    assert len(server.bodies) == (1 if filtered else 2)  # pages of 250 of 151 or 304 matches
    assert ("filter" in server.bodies[0] or "query" in server.bodies[0]) is filtered


def test_counts_are_told_and_the_result_is_on_stdout(
    plain: StacServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.parquet"
    assert search(plain, out, "--orbit", "descending", "--bbox", "9", "45", "10", "46") == 0
    told = capsys.readouterr()
    assert told.out == f"{out}\n"
    assert "found 152 of 304 at that place and time (left out: 152 by --orbit)" in told.err
    assert search(plain, out, "--limit", "10", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"catalog": str(out), "items": 10, "matched": 305, "superseded": 0}
    assert "there are more (--limit)" in told.err


def test_time_and_place(plain: StacServer, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    assert search(plain, out, "--start", "2024-01-02", "--end", "2024-01-02") == 0
    assert found(out) == [ITEMS[number]["id"] for number in range(24, 48)]  # a day is whole
    assert search(plain, out, "--start", "2024-01-02T22:00:00+00:00", "--end", "2024-01-02T23:30:00Z") == 0
    assert len(found(out)) == 2
    area = tmp_path / "area.geojson"
    area.write_text(json.dumps({"type": "Feature", "geometry": {"type": "Point", "coordinates": [101, 45.5]}}))
    assert search(plain, out, "--intersects", str(area)) == 0
    assert found(out) == [ITEMS[302]["id"]]


def test_a_box_across_the_antimeridian_is_two(tmp_path: Path) -> None:
    items = [item(1, lon=177.5), item(2, lon=-179.5), item(3, lon=0.0)]
    with stac_server({"sentinel-1-grd": items}) as server:
        assert search(server, tmp_path / "c.json", "--bbox", "179", "44", "-178", "46") == 0
    assert found(tmp_path / "c.json") == [items[0]["id"], items[1]["id"]]
    assert [body["bbox"] for body in server.bodies] == [[179, 44, 180, 46], [-180, 44, -178, 46]]


@pytest.mark.parametrize("name", ["c.json", "c.parquet", "c.csv"])
def test_no_secret_is_written(plain: StacServer, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / name
    assert search(plain, out, "--limit", "40") == 0
    data = out.read_bytes() if name != "c.parquet" else json.dumps(pq.read_table(out).to_pylist(), default=str).encode()
    assert b"manifest.safe" in data or name == "c.csv"
    for secret in (CANARY, "sig=", "X-Amz", "token=", "Bearer", "user:"):
        assert secret.encode() not in data
    first = out.read_bytes()
    assert search(plain, out, "--limit", "40") == 0
    assert out.read_bytes() == first  # the same search, the same bytes
    assert search(plain, out, collection=f"https://a:{CANARY}@b/?c={CANARY}") == 2
    plain.faults[:] = [400]
    assert exit_code(app, ["search", "--stac", f"{plain.url}?k={CANARY}", "--collection", "landsat", "--out", "x.csv"])
    assert CANARY not in capsys.readouterr().err.replace(f"https://a:{CANARY}@b/?c={CANARY}", "")


def test_the_three_formats_are_catalogs(tmp_path: Path) -> None:
    """Every format read back names the same product, here one beside the catalog, as if it had been downloaded."""
    product = simulate_sentinel1(tmp_path, rows=32, cols=32, seed=1, lon=9, lat=45)
    listed = item(1)
    listed["assets"] = {"product": {"href": f"https://example.net/{product.name.removesuffix('.SAFE')}.zip?sig=x"}}
    with stac_server({"sentinel-1-grd": [listed, item(2)]}) as server:
        for name in ("c.json", "c.parquet", "c.csv"):
            assert search(server, tmp_path / name) == 0
            catalog = read_catalog(tmp_path / name, 16)
            assert [unit.sources[0].path for unit in catalog.units] == [str(product)]  # type: ignore[union-attr]
            ((where, reason),) = catalog.rejects
            assert where.startswith("https://euwest.example.net/s1-grd")
            assert "download it first" in reason


def test_stac_geoparquet(plain: StacServer, tmp_path: Path) -> None:
    out = tmp_path / "c.parquet"
    assert search(plain, out, "--limit", "20") == 0
    file = pq.ParquetFile(out)
    metadata = file.schema_arrow.metadata
    assert json.loads(metadata[b"stac-geoparquet"])["version"] == "1.0.0"
    assert json.loads(metadata[b"geo"])["columns"]["geometry"]["covering"]["bbox"]["xmax"] == ["bbox", "xmax"]
    table = file.read()
    row = table.slice(3, 1).to_pylist()[0]
    assert str(table.schema.field("start_datetime").type) == "timestamp[us, tz=UTC]"
    assert row["id"] == ITEMS[3]["id"]
    assert row["start_datetime"].isoformat() == "2024-01-01T03:00:00.123456+00:00"
    assert row["sar:polarizations"] == ["VV", "VH"]
    assert row["bbox"] == {"xmin": 9.0, "ymin": 45.0, "xmax": 11.0, "ymax": 46.0}
    assert shapely.from_wkb(row["geometry"]).bounds == (9.0, 45.0, 11.0, 46.0)
    assert "empty" not in table.column_names


def test_reprocessed_products_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stem = "S1A_IW_GRDH_1SDV_20240101T0000{:02d}_20240101T000029_050000_00C350"
    old = item(0, name=stem.format(4) + "_AAAA", **{"s1:processing_datetime": "2024-01-01T03:00:00Z"})
    new = item(0, name=stem.format(4) + "_0BBB", **{"s1:processing_datetime": "2024-06-01T03:00:00Z"})
    new["properties"]["start_datetime"] = "2024-01-01T00:00:01.9Z"
    next_slice = item(0, name=stem.format(29) + "_CCCC", **{"s1:processing_datetime": "2024-01-01T03:00:00Z"})
    next_slice["properties"]["start_datetime"] = "2024-01-01T00:00:25Z"
    with stac_server({"sentinel-1-grd": [next_slice, old, new]}) as server:
        assert search(server, tmp_path / "c.json") == 0
        assert search(server, tmp_path / "c.csv") == 0
    features = json.loads((tmp_path / "c.json").read_bytes())["features"]
    assert [feature["id"] for feature in features] == [new["id"], old["id"], next_slice["id"]]
    marks = [feature["properties"].get("sarsense:superseded_by") for feature in features]
    assert marks == [None, new["id"], None]
    assert features[1]["properties"]["deprecated"] is True
    assert "1 of them superseded" in capsys.readouterr().err


def test_a_busy_server_is_asked_again(plain: StacServer, tmp_path: Path) -> None:
    plain.faults[:] = [503, 429]
    assert search(plain, tmp_path / "c.json", "--limit", "5") == 0
    assert len(found(tmp_path / "c.json")) == 5
    assert plain.faults == []


def test_failures_say_what_to_do(plain: StacServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c.json"
    assert search(plain, out, collection="sentinel-1-gdr") == 2
    assert "has no collection 'sentinel-1-gdr'; of its 2 collections: sentinel-1-grd" in capsys.readouterr().err
    assert exit_code(app, ["search", "--stac", plain.url, "--out", str(out)]) == 2
    assert "of its 2 collections: sentinel-1-grd" in capsys.readouterr().err
    plain.faults[:] = [400]
    assert search(plain, out) == 4
    assert "busy" in capsys.readouterr().err
    assert search(plain, out, "--mode", "WV") == 1
    assert "nothing was found (left out: 305 by --mode)" in capsys.readouterr().err
    closed = ["search", "--stac", "http://127.0.0.1:9/", "--collection", "x", "--out", str(out), "--timeout-s", "1"]
    assert not out.exists()
    assert exit_code(app, closed) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bbox", "1", "2", "3"], ""),
        (["--bbox", "1", "5", "3", "4"], "south below north"),
        (["--start", "yesterday"], "ISO 8601"),
        (["--start", "2024-05-01", "--end", "2024-04-30"], "is after"),
        (["--polarisation", "VV,XX"], "--polarisation XX"),
        (["--intersects", "nowhere.json"], "nowhere.json"),
        (["--asf"], "say where to search"),
    ],
)
def test_options_that_cannot_be_meant(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(app, ["search", "--stac", "http://127.0.0.1:9/", "--out", "c.json", *options]) == 2
    told = capsys.readouterr()
    assert words in told.err + told.out


def test_a_server_that_repeats_itself_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stac_server({"sentinel-1-grd": [item(1), item(2)]}) as server:
        server.client.stuck = True
        assert search(server, tmp_path / "c.json") == 4
    assert "page 2 of the answer holds nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 12},
        {"id": None},
        {"properties": [1]},
        {"properties": {"sar:polarizations": [1], "platform": {}}, "assets": 7},
    ],
)
def test_what_is_no_item_is_refused(
    tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """What a server sends is looked at before it is believed; here a simpler one than stac-fastapi answers."""
    found = {**item(2), **changes}
    root = {
        "type": "Catalog",
        "id": "x",
        "description": "x",
        "stac_version": "1.0.0",
        "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
    }

    async def landing(request: Request) -> JSONResponse:
        links = [{"rel": "search", "href": f"{request.url}search", "method": "POST", "type": "application/geo+json"}]
        return JSONResponse({**root, "links": links})

    async def answer(_: Request) -> JSONResponse:
        return JSONResponse({"type": "FeatureCollection", "features": [found], "links": []})

    api = Starlette(routes=[Route("/", landing), Route("/search", answer, methods=["POST"])])
    with serving(api) as port:
        command = [
            "search",
            "--stac",
            f"http://127.0.0.1:{port}/",
            "--collection",
            "c",
            "--out",
            str(tmp_path / "c.json"),
        ]
        assert exit_code(app, command) == 4
    assert "ingest: error: " in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()
