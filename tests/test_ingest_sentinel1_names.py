import pytest

from ingest.sentinel1_names import is_product_name, part_of, product_name, short_name, stem

GRD = "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_8255"


@pytest.mark.parametrize("packing", ["", ".SAFE", ".zip", ".SAFE.zip", "_COG", "_COG.SAFE", "_COG.SAFE.zip"])
def test_a_product_has_one_name_in_every_packing(packing: str) -> None:
    assert product_name(GRD + packing) == GRD
    assert is_product_name(GRD + packing)


@pytest.mark.parametrize("name", ["download.zip", "S1A_IW", "S2A_MSIL1C_20210119T031653", "S1A", "", f"x{GRD}"])
def test_other_names_are_no_products(name: str) -> None:
    assert not is_product_name(name)


@pytest.mark.parametrize(
    ("name", "short", "part"),
    [
        ("measurement/s1a-iw-grd-vv-20210119t031653-20210119t031718-036201-043ed0-001.tiff", "iw-vv.tiff", None),
        ("measurement/s1a-iw-grd-vv-20210119t031653-20210119t031718-036201-043ed0-001-cog.tiff", "iw-vv.tiff", None),
        ("annotation/s1c-s4-grd-hv-20250119t031653-20250119t031718-036201-043ed0-002.xml", "s4-hv.xml", None),
        ("annotation/s1a-iw3-slc-vh-20200511t135118-20200511t135143-032518-03c421-003.xml", "iw3-vh.xml", "IW3"),
        (
            "annotation/s1b-wv2-slc-vv-20200511t135118-20200511t135121-032518-03c421-042.xml",
            "wv2-vv-042.xml",
            "WV2-042",
        ),
        ("measurement/ew-hh.tiff", "ew-hh.tiff", None),
        ("measurement/wv1-hh-007.tiff", "wv1-hh-007.tiff", "WV1-007"),
    ],
)
def test_a_file_has_one_short_name_in_every_layout(name: str, short: str, part: str | None) -> None:
    folder = name.partition("/")[0]
    assert short_name(name) == f"{folder}/{short}"
    assert part_of(name) == part
    if folder == "annotation":
        for kind in ("calibration", "noise"):
            beside = name.replace("annotation/", f"annotation/calibration/{kind}-")
            assert short_name(beside) == f"annotation/calibration/{kind}-{short}"
            assert part_of(beside) == part


def test_names_that_are_not_an_image_s_stay() -> None:
    for name in ("manifest.safe", "productInfo.json", "support/s1-level-1-noise.xsd", "preview/map-overlay.kml"):
        assert short_name(name) == name
        assert part_of(name) is None
    assert stem("measurement/IW-VV-COG.TIFF") == "iw-vv"
