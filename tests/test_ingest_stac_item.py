"""What items say of themselves under the names that servers use, and which of them show one acquisition."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.stac_item import facts, mark_superseded, platform_name, rows_of

NAME = "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_{}"


def item(name: str, **properties: Any) -> dict[str, Any]:
    return {"id": name, "properties": properties, "assets": {"product": {"href": f"https://h/{name}.zip"}}}


@pytest.mark.parametrize(
    ("found", "platform", "mode", "product", "polarisations"),
    [
        (item(NAME.format("8255")), "S1A", "IW", "GRD", ("VV", "VH")),
        (item(NAME.format("8255")[:-5]), "S1A", "IW", "GRD", ("VV", "VH")),  # the Planetary Computer cuts the checksum
        (item("S1C_EW_GRDM_1SDH_20250101T000000_20250101T000100_000001_000001_AAAA"), "S1C", "EW", "GRD", ("HH", "HV")),
        (item("S1A_WV_SLC__1SSV_20160510T130603_20160510T131305_011195_010EA1_4C3A"), "S1A", "WV", "SLC", ("VV",)),
        (item("x", platform="sentinel-1d", **{"sar:polarizations": ["hh"]}), "S1D", None, None, ("HH",)),
        (item("x", platform="ALOS-2", **{"product:type": "L2.2"}), "ALOS-2", None, "L2.2", ()),
    ],
)
def test_facts(
    found: dict[str, Any], platform: str, mode: str | None, product: str | None, polarisations: tuple[str, ...]
) -> None:
    known = facts(found)
    assert (known.platform, known.mode, known.product, known.polarisations) == (platform, mode, product, polarisations)


def test_times_of_any_writing() -> None:
    moment = datetime(2022, 1, 10, 5, 9, 22, 400645, tzinfo=UTC)
    for text in ("2022-01-10 05:09:22.400645+00:00", "2022-01-10T05:09:22.400645Z", "2022-01-10T05:09:22.400645"):
        assert facts(item("x", start_datetime=text)).start == moment
    assert facts(item("x", datetime="soon")).start is None


@pytest.mark.parametrize("name", ["S1B", "s1b", "Sentinel-1B", "SENTINEL-1B", "sentinel1b", "Sentinel 1B"])
def test_names_of_one_satellite(name: str) -> None:
    assert platform_name(name) == "S1B"


@settings(deadline=None)
@given(st.permutations(range(6)))
def test_order_does_not_depend_on_the_servers(order: list[int]) -> None:
    items = [
        item(NAME.format("AAAA"), start_datetime="2021-01-19T03:16:53.9Z", **{"processing:datetime": "2021-01-19"}),
        item(NAME.format("BBBB"), start_datetime="2021-01-19T03:16:54.1Z", **{"processing:datetime": "2023-01-19"}),
        item(NAME.format("CCCC"), start_datetime="2021-01-19T03:16:53.9Z"),
        item("other", start_datetime="2021-01-19T03:16:53.9Z"),
        item(
            "S1A_IW_SLC__1SDV_20210119T031653_20210119T031718_036201_043ED0_DDDD", start_datetime="2021-01-19T03:16:53Z"
        ),
        item("undated"),
    ]
    marked = mark_superseded([items[i] for i in order])
    assert [one["id"][-5:] for one in marked] == ["_DDDD", "_BBBB", "_AAAA", "_CCCC", "other", "dated"]
    newer = [row["superseded_by"] for row in rows_of(marked)]
    assert newer == [None, None, NAME.format("BBBB"), NAME.format("BBBB"), None, None]


def test_a_time_before_the_first_year_is_none() -> None:
    assert facts(item("x", datetime="0001-01-01T00:00:00+14:00")).start is None
