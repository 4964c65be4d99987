import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from corpora import SQUARE, make_corpus, make_tile, scene_tiles

from infra.errors import SarsenseError
from infra.record import sha256
from infra.store import open_store
from shards.index import (
    OPTIONAL,
    SCHEMA,
    IndexDamaged,
    join_units,
    put_index,
    read_index,
    repeated_keys,
    rows_table,
    write_index,
)
from shards.writer import write_unit

CROSSING = [[179.5, 10.0], [-179.0, 10.0], [-179.0, 9.0], [179.5, 9.0]]
UNWRAPPED = [[179.5, 10.0], [181.0, 10.0], [181.0, 9.0], [179.5, 9.0]]


def unit(name, footprints, url="memory://index"):
    tiles = [make_tile(f"{name}-{n}", name, footprint=f) for n, f in enumerate(footprints)]
    return write_unit(open_store(url), name, tiles, "npy", 8000)


def file_of(rows: pa.Table) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(write_index(rows)))


def test_the_file_is_geoparquet_1_1():
    rows = unit("a", [SQUARE, None, CROSSING]).rows
    file = file_of(rows)
    geo = json.loads(file.metadata.metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert column["bbox"] == [-180.0, 9.0, 180.0, 50.0]
    assert column["covering"] == {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}}
    assert "crs" not in column  # the default, OGC:CRS84: longitude, latitude
    table = file.read()
    assert table.column_names == SCHEMA.names
    shapes = shapely.from_wkb(table["geometry"].to_pylist())
    assert shapes[0].equals(shapely.Polygon(SQUARE))
    assert shapes[0].exterior.is_ccw
    assert shapes[1] is None
    assert table["bbox"].to_pylist()[:2] == [{"xmin": 10.0, "ymin": 49.9, "xmax": 10.1, "ymax": 50.0}, None]


@pytest.mark.parametrize("corners", [CROSSING, UNWRAPPED])
def test_a_tile_across_the_antimeridian_has_two_sides(corners):
    table = file_of(unit("a", [corners]).rows).read()
    (shape,) = shapely.from_wkb(table["geometry"].to_pylist())
    assert shape.is_valid
    assert [part.bounds for part in shape.geoms] == [(-180.0, 9.0, -179.0, 10.0), (179.5, 9.0, 180.0, 10.0)]
    assert all(part.exterior.is_ccw for part in shape.geoms)
    assert table["footprint"].to_pylist() == [[x for corner in corners for x in corner]]


def test_a_tile_beyond_the_antimeridian_is_turned_back():
    table = file_of(unit("a", [[[190.0, 1.0], [191.0, 1.0], [191.0, 0.0], [190.0, 0.0]]]).rows).read()
    (shape,) = shapely.from_wkb(table["geometry"].to_pylist())
    assert shape.bounds == (-170.0, 0.0, -169.0, 1.0)


def test_an_index_without_places_is_valid():
    file = file_of(unit("a", [None, None]).rows)
    column = json.loads(file.metadata.metadata[b"geo"])["columns"]["geometry"]
    assert column["geometry_types"] == []
    assert "bbox" not in column
    assert file.read()["geometry"].null_count == 2


def test_the_bytes_are_the_same_every_time():
    units = [unit("a", [SQUARE, None]), unit("b", [CROSSING])]
    first, again = (write_index(join_units(units).rows) for _ in range(2))
    assert first == again
    assert b"pandas" not in first


def test_units_are_joined_with_shards_counted_through():
    units = [unit("a", [SQUARE] * 5), unit("none", []), unit("b", [None] * 3)]
    joined = join_units(units)
    assert [len(u.shards) for u in units] == [3, 0, 2]
    assert joined.rows["shard"].to_pylist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert joined.shards == units[0].shards + units[2].shards
    assert join_units([]).rows.num_rows == 0


def test_a_key_that_repeats_is_named():
    first = unit("a", [SQUARE] * 3)
    with pytest.raises(SarsenseError, match="3 tile keys name more than one tile, first a-0"):
        join_units([first, first])
    assert repeated_keys(first.rows) == []


@pytest.mark.parametrize("rows_per_part", [1, 3, 100])
def test_what_is_written_in_parts_is_read_as_one(rows_per_part):
    store, manifest = make_corpus(f"memory://parts-{rows_per_part}", rows_per_part=rows_per_part, label=True)
    table = read_index(store, manifest)
    tiles = [t for n, count in enumerate((7, 4, 9)) for t in scene_tiles(f"scene-{n}", count)]
    assert table["key"].to_pylist() == [t.key for t in tiles]
    assert [p.rows for p in manifest.index] == [min(rows_per_part, 20 - n) for n in range(0, 20, rows_per_part)]
    assert pa.types.is_dictionary(table["scene"].type)
    assert table["mean_db"].to_pylist() == [[-10.5, -17.25]] * 20
    assert table["crc32c"].to_numpy().dtype == np.uint32


def test_a_damaged_part_is_named_before_it_is_parsed():
    store, manifest = make_corpus("memory://damaged-index")
    key = manifest.index[0].key
    data = store.get(key)
    for broken in (data[:-1], bytes([*data[:99], data[99] ^ 8, *data[100:]]), b""):
        store.put(key, broken)
        with pytest.raises(IndexDamaged, match=rf"{key} is damaged: expected {len(data)} bytes"):
            read_index(store, manifest)


def with_index(url, change):
    """A corpus whose index was written wrongly and named rightly."""
    store, manifest = make_corpus(url)
    data = change(read_index(store, manifest).cast(SCHEMA))
    store.put("index/x.parquet", data)
    part = manifest.index[0].model_copy(update={"key": "index/x.parquet", "bytes": len(data), "sha256": sha256(data)})
    return store, manifest.model_copy(update={"index": (part,)})


def set_column(rows, name, values):
    at = SCHEMA.get_field_index(name)
    return write_index(rows.set_column(at, SCHEMA.field(at), pa.array(values, SCHEMA.field(at).type)))


def drop_key(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(rows.drop_columns(["key"]), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: set_column(rows, "shard", [0] * 20), "in order"),
        (lambda rows: set_column(rows, "offset", [2**62] * 20), "outside its shard"),
        (lambda rows: set_column(rows, "meta_length", [-1] * 20), "meta_payload outside its shard"),
        (lambda rows: write_index(rows.slice(0, 19)), "in order"),
        (drop_key, "not a patch index"),
        (lambda rows: b"PAR1", "not a patch index"),
    ],
)
def test_an_index_that_does_not_fit_the_shards_is_refused(change, said):
    store, manifest = with_index("memory://wrong-index", change)
    with pytest.raises(IndexDamaged, match=said):
        read_index(store, manifest)


def test_parts_are_named_by_their_digest():
    store = open_store("memory://index-parts")
    (part,) = put_index(store, rows_table([]).slice(0)) or (None,)
    assert part is None
    (part,) = put_index(store, unit("a", [SQUARE]).rows)
    assert part.key == f"index/part-00000-{sha256(store.get(part.key))[:12]}.parquet"


MEASURED = {
    "platform": "S1A", "mode": "IW", "quantity": "gamma0", "orbit": "descending", "incidence_deg": 38.125,
    "std_db": [2.5, 3.0], "p02_db": [-20.5, -27.0], "p98_db": [-2.0, -9.5], "contrast_db": 1.75,
    "land_share": 0.25, "water_share": 0.75,
}  # fmt: skip


def test_what_was_measured_stands_in_typed_columns():
    store, manifest = make_corpus("memory://measured", (2,), **MEASURED)
    table = read_index(store, manifest)
    assert set(MEASURED) == set(OPTIONAL)
    assert {name: table[name].to_pylist() for name in OPTIONAL} == {name: [v, v] for name, v in MEASURED.items()}
    assert all(pa.types.is_dictionary(table[name].type) for name in ("platform", "mode", "quantity", "orbit"))


def older(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(rows.drop_columns(list(OPTIONAL)), sink)
    return sink.getvalue().to_pybytes()


def test_an_index_from_before_these_columns_is_read():
    store, manifest = with_index("memory://older", older)
    table = read_index(store, manifest)
    assert table.column_names == SCHEMA.names
    assert all(table[name].null_count == 20 for name in OPTIONAL)
    assert table["mean_db"].to_pylist() == [[-10.5, -17.25]] * 20
