"""Whatever a catalog file holds, it is read or refused with its name: nothing else comes out."""

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import UsageError
from ingest.catalog_rows import read_rows

KEYS = st.sampled_from(["type", "features", "properties", "assets", "path", "labels", "href", "product", "id", "data"])
LEAF = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["Feature", "s3://b/x", "\0"])
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))
FEATURES = st.fixed_dictionaries({"features": st.lists(st.dictionaries(KEYS, JSON, max_size=4), max_size=3)})
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(JSON | FEATURES)
def test_any_json(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    with contextlib.suppress(UsageError):
        for row in read_rows(path):
            assert row.path
            assert "\0" not in row.path


@QUICK
@given(st.binary(max_size=80), st.sampled_from(["csv", "json", "parquet"]))
def test_any_bytes(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(data if suffix != "csv" else b"path,labels\n" + data)
    try:
        rows = read_rows(path)
    except UsageError as error:
        assert str(path) in str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert all(row.path and row.where for row in rows)
