import json
from pathlib import Path

import numpy as np
import pytest
from chip_layouts import MINIATURES, SIDE, levels, make

from infra.errors import UsageError
from ingest.chip_set import ChipFolder, chip_folder, layouts, read_chip_folder
from ingest.chips import open_chip
from ingest.scene import SceneRejected, Window

WHOLE = Window(0, 0, SIDE, SIDE)
# Class id of the dark left half and of the bright right half; None where a layout has no label raster.
LABELS = {
    "air-polsar-seg": None,
    "bigearthnet-s1": None,
    "dfc2020": (10, 7),
    "fusar-map": (2, 0),
    "kompsat5-water": (1, 0),
    "openearthmap-sar": (5, 255),
    "sen12ms": (17, 13),
    "sen1floods11": (1, 0),
    "spacenet-6": (1, 0),
    "ssl4eo-s12": None,
    "whu-opt-sar": (3, 1),
}
IDS = {
    "bigearthnet-s1": "bigearthnet-s1-S1A_20170613T165043_33UUP_61_39",
    "sen12ms": "sen12ms-1158_spring_1_30",
    "sen1floods11": "sen1floods11-Ghana_53713",
    "spacenet-6": "spacenet-6-20190804111224_20190804111453_tile_7879",
    "ssl4eo-s12": "ssl4eo-s12-0000000_S1A_20170613T165043",
}


def test_every_layout_has_a_miniature() -> None:
    assert sorted(layouts()) == sorted(MINIATURES) == sorted(LABELS)


@pytest.mark.parametrize("layout", MINIATURES)
def test_a_data_set_is_read_in_its_own_layout(layout: str, tmp_path: Path) -> None:
    spec, folder = read_chip_folder(make(layout, tmp_path))
    sources = chip_folder(folder, spec)
    assert len(sources) == 2
    assert sources[0].id == IDS.get(layout, sources[0].id)
    for number, source in enumerate(sources):
        with open_chip(source) as scene:
            power, label = scene.power(WHOLE), scene.label(WHOLE)
        assert power.shape == (len(spec.polarisations), SIDE, SIDE)
        # Data sets that are not calibrated keep the shape of their contrast, not its level.
        found_db = 10 * np.log10(power)
        expected_db = levels(number, len(spec.polarisations))
        offset_db = 0.0 if spec.quantity == "db" else found_db[0, 0, -1] - expected_db[0, 0, -1]
        np.testing.assert_allclose(found_db - offset_db, expected_db, atol=0.3 if spec.quantity != "db" else 1e-4)
        if LABELS[layout] is None:
            assert label is None
        else:
            assert label is not None
            assert (int(label[0, 0]), int(label[-1, -1])) == LABELS[layout]
            assert [int((label == value).sum()) for value in LABELS[layout]] == [SIDE * SIDE // 2] * 2


def test_the_time_in_a_name_becomes_the_chips_time(tmp_path: Path) -> None:
    spec, folder = read_chip_folder(make("bigearthnet-s1", tmp_path))
    assert [source.time for source in chip_folder(folder, spec)] == [
        "2017-06-13T16:50:43.000000Z",
        "2018-01-02T05:11:22.000000Z",
    ]
    wrong = spec.model_copy(update={"time_format": "%Y-%m-%d"})
    with pytest.raises(UsageError, match="'20170613T165043' in a file name is not a time"):
        chip_folder(folder, wrong)


def test_fields_override_a_layout_and_unknown_ones_are_named(tmp_path: Path) -> None:
    description = make("sen1floods11", tmp_path)
    description.write_text("layout: sen1floods11\nlooks: 3.0\nname: mine\n")
    spec, _ = read_chip_folder(description)
    assert (spec.looks, spec.name, spec.quantity) == (3.0, "mine", "db")
    description.write_text("layout: sen2floods\n")
    with pytest.raises(UsageError, match="no layout 'sen2floods': expected one of air-polsar-seg, bigearthnet-s1"):
        read_chip_folder(description)


def test_polygons_need_a_map_and_must_be_polygons(tmp_path: Path) -> None:
    spec, folder = read_chip_folder(make("spacenet-6", tmp_path))
    source = chip_folder(folder, spec)[0]
    assert source.label is not None
    Path(source.label).write_text('{"features": [{"geometry": {"type": "Polygon"}}]}')
    with pytest.raises(SceneRejected, match="expected a GeoJSON feature collection of polygons"):
        open_chip(source)
    Path(source.label).unlink()
    with pytest.raises(SceneRejected, match="No such file"):
        open_chip(source)


def test_polygons_without_a_system_are_in_degrees(tmp_path: Path) -> None:
    spec, folder = read_chip_folder(make("spacenet-6", tmp_path))
    source = chip_folder(folder, spec)[0]
    with open_chip(source) as scene:
        before = scene.label(WHOLE)
        corners = scene.locate(np.array([-0.5, -0.5, SIDE - 0.5, SIDE - 0.5]), np.array([-0.5, 11.5, 11.5, -0.5]))
    ring = [*corners.tolist(), corners[0].tolist()]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    assert source.label is not None
    Path(source.label).write_text(json.dumps({"features": [{"geometry": geometry}]}))
    with open_chip(source) as scene:
        np.testing.assert_array_equal(scene.label(WHOLE), before)
        np.testing.assert_array_equal(scene.label(Window(3, 5, 9, 11)), before[3:12, 5:16])


def test_fields_repeat_and_tell_chips_apart(tmp_path: Path) -> None:
    for name in ("a/x_a_1.tif", "a/x_b_2.tif", "b/x_b_1.tif", "b/y_b_1.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    fields = {"polarisations": "VV", "quantity": "db"}
    spec = ChipFolder.model_validate({"image": "{place}/x_{place}_{n}.tif", **fields})
    assert [source.id for source in chip_folder(tmp_path, spec)] == ["a-1", "b-1"]
    spec = ChipFolder.model_validate({"image": "{place}/{kind}_b_{n}.tif", "id": "{n}", **fields})
    with pytest.raises(UsageError, match="two chips would be called 1"):
        chip_folder(tmp_path, spec)
