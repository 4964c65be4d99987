"""Whatever properties servers give their items, every format of a catalog holds them and names their products."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import UsageError
from ingest.catalog_rows import read_rows
from ingest.catalog_write import check_target, write_catalog
from ingest.stac_item import clean_item

SCALAR = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.recursive(
    SCALAR | st.text("abc:é", max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2),
    max_leaves=5,
)
PROPERTIES = st.dictionaries(st.sampled_from(["a", "b:c", "id", "datetime", "created", "type"]), VALUE, max_size=4)


def items_of(properties: list[dict[str, Any]]) -> list[dict[str, Any]]:
    point = {"type": "Point", "coordinates": [9.0, 45.0, 100.0]}
    return [
        clean_item(
            {
                "id": f"item {number}",
                "geometry": point if number % 2 else None,
                "bbox": [9.0, 45.0, 0.0, 9.0, 45.0, 100.0] if number % 2 else None,
                "properties": values,
                "assets": {"product": {"href": f"/data/{number}.SAFE", "roles": [], "empty": {}}},
            }
        )
        for number, values in enumerate(properties)
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PROPERTIES, min_size=1, max_size=4))
def test_any_properties_are_written_and_products_read_back(tmp_path: Path, properties: list[dict[str, Any]]) -> None:
    items = items_of(properties)
    for name in ("c.json", "c.parquet", "c.csv"):
        path = tmp_path / name
        write_catalog(items, path)
        first = path.read_bytes()
        write_catalog(items, path)
        assert path.read_bytes() == first
        assert [row.path for row in read_rows(path)] == [f"/data/{number}.SAFE" for number in range(len(items))]
    assert json.loads((tmp_path / "c.json").read_bytes())["features"] == items
    table = pq.read_table(tmp_path / "c.parquet")
    assert table["id"].to_pylist() == [item["id"] for item in items]  # an item's own names win over properties
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.csv", "c.json", "c.parquet"]


def test_boxes_of_six_numbers_and_types_that_differ(tmp_path: Path) -> None:
    items = items_of([{"a": 1, "datetime": "2024-01-01T00:00:00+01:00"}, {"a": "x", "datetime": None}])
    write_catalog(items, tmp_path / "c.parquet")
    rows = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert [row["a"] for row in rows] == ["1", '"x"']
    assert rows[0]["datetime"].isoformat() == "2023-12-31T23:00:00+00:00"
    assert [row["bbox"] for row in rows] == [None, {"xmin": 9.0, "ymin": 45.0, "xmax": 9.0, "ymax": 45.0}]


@pytest.mark.parametrize("name", ["c.txt", "c", "nowhere/c.json"])
def test_targets_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--out"):
        check_target(tmp_path / name)
