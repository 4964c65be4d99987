"""``ingest despeckle``: any GeoTIFF through a filter, with its values, place and no-data kept."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from speckle_reference import speckled

from infra.command import exit_code
from infra.errors import ResourceError, UsageError
from ingest import despeckle_file as module
from ingest.cli import app
from ingest.cli_despeckle import Kind
from ingest.despeckle_file import Output, despeckle_file, despeckle_stack
from ingest.recipe import SpeckleKind, SpeckleRules
from ingest.scene import SceneRejected
from ingest.speckle import filter_power
from ingest.speckle_multitemporal import filter_stack

LEE = SpeckleRules(kind="lee", looks=4.4)
PLACE: dict[str, Any] = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 4.6e6)}


def write(path: Path, pixels: NDArray[Any], **profile: Any) -> Path:
    shape = {"count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **PLACE | profile) as file:
        file.write(pixels)
    return path


def read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return file.read()


def clean(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.float32]:
    """Speckle without negatives, with no-data."""
    power = np.abs(speckled(shape, seed=seed)) + np.float32(1e-4)
    power[:, 40:50, 60:90] = np.nan
    return power


@pytest.mark.parametrize("kind", ["lee", "refined-lee", "lee-sigma", "frost"])
def test_power_goes_through_by_blocks_as_through_the_filter(tmp_path: Path, monkeypatch, kind: str) -> None:
    power = speckled((2, 600, 530))
    source = write(tmp_path / "in.tif", power, nodata=np.nan)
    monkeypatch.setattr(module, "_BLOCK_PIXELS", 2 * 256 * 512)
    blocks = []
    rules = SpeckleRules(kind=kind, looks=4.4, damping=0.7, sigma=0.8)
    used = despeckle_file(source, tmp_path / "out.tif", rules, progress=lambda *at: blocks.append(at))
    assert used == 4.4
    assert blocks == [(n + 1, 6) for n in range(6)]
    bright = [float(np.nanpercentile(band, 98)) for band in power]
    expected = filter_power(power, kind, 7, 4.4, damping=0.7, sigma=0.8, bright=bright)
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), expected)


def test_amplitude_and_decibels_are_converted_and_back(tmp_path: Path) -> None:
    power = clean((1, 90, 120))
    expected = filter_power(power, "lee", 7, 4.4)[0]
    numbers = {
        "amplitude": (np.sqrt(power, dtype=np.float64), np.sqrt(expected)),
        "db": (10 * np.log10(power, dtype=np.float64), 10 * np.log10(expected)),
    }
    for values, (given, wanted) in numbers.items():
        source = write(tmp_path / f"{values}.tif", given, nodata=np.nan)
        despeckle_file(source, tmp_path / f"{values}_out.tif", LEE, values)  # type: ignore[arg-type]
        np.testing.assert_allclose(read(tmp_path / f"{values}_out.tif")[0], wanted, rtol=1e-5, atol=1e-5)


def test_whole_numbers_of_a_product_are_amplitude_if_one_says_so(tmp_path: Path, capsys) -> None:
    """DN of a GRD product: 65535^2 must not overflow, 0 is no-data."""
    power = clean((2, 100, 130), seed=3)
    digital = np.nan_to_num(np.sqrt(power / 2) * 3e4).clip(0, 65535).astype(np.uint16)
    digital[0, 10, 10] = 65535
    source = write(tmp_path / "dn.tif", digital, nodata=0)
    argv = ["despeckle", str(source), str(tmp_path / "out.tif"), "--kind", "gamma-map", "--looks", "4.4"]
    assert exit_code(app, argv) == 2
    assert (
        "uint16 numbers, which may be amplitude, power or decibels: say which with --values" in capsys.readouterr().err
    )
    assert exit_code(app, [*argv, "--values", "amplitude", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"kind": "gamma-map", "size": 7, "looks": 4.4, "out": str(tmp_path / "out.tif")}
    of_numbers = digital.astype(np.float32) ** 2
    of_numbers[digital == 0] = np.nan
    expected = np.nan_to_num(np.sqrt(filter_power(of_numbers, "gamma-map", 7, 4.4)))
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.nodata == 0
        np.testing.assert_array_equal(file.read(), expected)


def test_a_result_is_described_and_stored_as_a_map_should_be(tmp_path: Path) -> None:
    source = write(tmp_path / "in.tif", np.nan_to_num(clean((2, 300, 400)), nan=-9999.0), nodata=-9999.0)
    with rasterio.open(source, "r+") as file:
        file.descriptions = ("VV", "VH")
        file.update_tags(ACQUIRED="2024-05-06")
        file.update_tags(2, NOTE="cross")
    despeckle_file(source, tmp_path / "new" / "out.tif", LEE)
    with rasterio.open(tmp_path / "new" / "out.tif") as file:
        assert (file.crs.to_epsg(), file.transform) == (32633, PLACE["transform"])
        assert file.nodata == -9999.0
        assert file.descriptions == ("VV", "VH")
        assert file.tags()["ACQUIRED"] == "2024-05-06"
        assert json.loads(file.tags()["SPECKLE_FILTER"])["looks"] == 4.4
        assert file.tags(2)["NOTE"] == "cross"
        assert file.dtypes == ("float32", "float32")
        assert file.block_shapes == [(256, 256)] * 2
        assert file.compression.value == "DEFLATE"
        pixels = file.read()
        np.testing.assert_array_equal(pixels == -9999.0, np.isnan(clean((2, 300, 400))))
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["out.tif"]


@pytest.mark.parametrize("values", ["power", "amplitude", "db"])
def test_any_no_data_value_is_kept(tmp_path: Path, values: str) -> None:
    """Also the least float32, whose square and power of ten are none."""
    pixels = np.full((1, 50, 60), 3.0, np.float32)
    pixels[0, 10:20] = least = np.finfo(np.float32).min
    source = write(tmp_path / "in.tif", pixels, nodata=float(least))
    despeckle_file(source, tmp_path / "out.tif", LEE, values)  # type: ignore[arg-type]
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.nodata == least
        np.testing.assert_allclose(file.read(), pixels, rtol=1e-6)
    other = write(tmp_path / "undeclared.tif", np.where(pixels < 0, np.float32(-32768), pixels))
    despeckle_file(other, tmp_path / "out.tif", LEE, values, nodata=-32768)  # type: ignore[arg-type]
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.nodata == -32768
        assert (file.read(1, masked=True).mask == (pixels[0] < 0)).all()


@pytest.mark.parametrize("compress", ["zstd", "lzw", "none"])
def test_compression_changes_no_pixel(tmp_path: Path, compress: str) -> None:
    power = clean((1, 80, 90))
    source = write(tmp_path / "in.tif", power, nodata=np.nan)
    despeckle_file(source, tmp_path / "out.tif", LEE, output=Output(compress, 2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), filter_power(power, "lee", 7, 4.4))


def test_ground_control_points_are_kept(tmp_path: Path) -> None:
    points = [GroundControlPoint(row=r, col=c, x=10 + c / 1e4, y=45 - r / 1e4) for r in (0, 50) for c in (0, 60)]
    pixels = clean((1, 50, 60))
    with rasterio.open(
        tmp_path / "in.tif", "w", driver="GTiff", count=1, height=50, width=60, dtype="float32",
        gcps=points, crs="EPSG:4326",
    ) as file:  # fmt: skip
        file.write(pixels)
    despeckle_file(tmp_path / "in.tif", tmp_path / "out.tif", LEE)
    with rasterio.open(tmp_path / "out.tif") as file:
        found, crs = file.gcps
        assert crs.to_epsg() == 4326
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


def test_a_declared_scale_is_applied(tmp_path: Path) -> None:
    stored = (np.nan_to_num(clean((1, 60, 70))) * 1000).astype(np.uint16)
    source = write(tmp_path / "in.tif", stored)
    with rasterio.open(source, "r+") as file:
        file.scales, file.offsets = (0.001,), (0.5,)
    despeckle_file(source, tmp_path / "out.tif", LEE, "power")
    expected = filter_power((stored * 0.001 + 0.5).astype(np.float32), "lee", 7, 4.4)
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), expected)


def test_looks_are_measured_when_nobody_states_them(tmp_path: Path, capsys) -> None:
    power = np.random.default_rng(0).gamma(3, 1 / 3, (1, 400, 400)).astype(np.float32)
    source = write(tmp_path / "in.tif", power)
    for extra in ([], ["--looks", "estimate"]):
        argv = ["despeckle", str(source), "--out", str(tmp_path / "out.tif"), "--kind", "lee", "--json", *extra]
        assert exit_code(app, argv) == 0
        assert json.loads(capsys.readouterr().out)["looks"] == pytest.approx(3, rel=0.05)


def test_real_amplitude_tile_becomes_smoother_and_keeps_its_mean_power(shared_data: Path, tmp_path: Path) -> None:
    source = sorted((shared_data / "sentinel1_iw_vh_tiles").glob("*_VH_*.tif"))[0]
    before = read(source).astype(np.float64) ** 2
    for kind, lost in (("boxcar", 0.001), ("lee", 0.02), ("lee-sigma", 0.02), ("frost", 0.01), ("refined-lee", 0.05)):
        despeckle_file(source, tmp_path / "out.tif", SpeckleRules(kind=kind), "amplitude")
        after = read(tmp_path / "out.tif").astype(np.float64) ** 2
        assert after.mean() == pytest.approx(before.mean(), rel=lost)
        assert np.diff(after).std() < 0.75 * np.diff(before).std()


def test_multitemporal_goes_through_by_blocks(tmp_path: Path, monkeypatch, capsys) -> None:
    images = [clean((2, 300, 520), seed=n) for n in range(3)]
    images[1][:, :, 300:] = np.nan
    sources = [write(tmp_path / f"{n}.tif", image, nodata=np.nan) for n, image in enumerate(images)]
    monkeypatch.setattr(module, "_BLOCK_PIXELS", 6 * 256 * 256)
    argv = ["despeckle", *map(str, sources), "--kind", "multitemporal", "--size", "9", "--out", str(tmp_path / "out")]
    assert exit_code(app, [*argv, "--json"]) == 0
    targets = json.loads(capsys.readouterr().out)["out"]
    for target, expected in zip(targets, filter_stack(images, 9), strict=True):
        np.testing.assert_array_equal(read(Path(target)), expected)
    tags = rasterio.open(targets[0]).tags()
    assert json.loads(tags["SPECKLE_FILTER"])["images"] == ["0.tif", "1.tif", "2.tif"]


def test_stacks_that_are_none_are_refused(tmp_path: Path) -> None:
    pixels = clean((1, 60, 70))
    first = write(tmp_path / "a.tif", pixels)
    folder = tmp_path / "out"
    for name, other, extra in [
        ("height", pixels[:, :50], {}),
        ("count", np.concatenate([pixels, pixels]), {}),
        ("crs", pixels, {"crs": "EPSG:32634"}),
        ("transform", pixels, {"transform": Affine(10, 0, 5e5 + 5, 0, -10, 4.6e6)}),
    ]:
        second = write(tmp_path / "b.tif", other, **extra)
        with pytest.raises(UsageError, match=rf"b\.tif has {name} .*co-registered"):
            despeckle_stack([first, second], folder, 7)
    (tmp_path / "same").mkdir()
    with pytest.raises(UsageError, match="2 images have 1 names"):
        despeckle_stack([first, write(tmp_path / "same" / "a.tif", pixels)], folder, 7)
    with pytest.raises(UsageError, match="two or more"):
        despeckle_stack([first], folder, 7)
    with pytest.raises(UsageError, match="is the input itself"):
        despeckle_stack([first, write(tmp_path / "b.tif", pixels)], tmp_path, 7)
    assert not folder.exists() or not list(folder.iterdir())


def test_what_cannot_be_filtered_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    decibels = write(tmp_path / "db.tif", 10 * np.log10(clean((1, 60, 70))), nodata=np.nan)
    with pytest.raises(UsageError, match=r"db\.tif: \d+% of a sample .* below zero, as decibels.* say --values db"):
        despeckle_file(decibels, out, LEE)
    single_look_complex = write(tmp_path / "slc.tif", np.ones((1, 20, 20), np.complex64))
    with pytest.raises(UsageError, match="complex numbers"):
        despeckle_file(single_look_complex, out, LEE)
    with pytest.raises(UsageError, match="is the input itself"):
        despeckle_file(decibels, decibels, LEE, "db")
    with pytest.raises(SceneRejected, match="cannot be opened"):
        despeckle_file(tmp_path / "none.tif", out, LEE)
    (tmp_path / "text.tif").write_text("not pixels at all")
    with pytest.raises(SceneRejected, match="not a GTiff"):
        despeckle_file(tmp_path / "text.tif", out, LEE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        despeckle_file(decibels, tmp_path / "file" / "out.tif", LEE, "db")
    assert not out.exists()


def test_an_interrupted_result_leaves_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "in.tif", clean((1, 60, 70)))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        despeckle_file(source, tmp_path / "out.tif", LEE, progress=stop)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in.tif"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [(["--size", "4"], "no middle"), (["--kind", "refined-lee", "--size", "9"], "7 x 7"),
     (["--looks", "-1"], "greater"),
     (["--kind", "lee-sigma", "--sigma", "0.42"], "tables for"), (["more.tif"], "3 paths"),
     (["--kind", "multitemporal"], "--out says in which folder"), (["--damping", "0"], "damping")],
)  # fmt: skip
def test_wrong_settings_end_with_one_line(tmp_path: Path, capsys, extra: list[str], words: str) -> None:
    source = write(tmp_path / "in.tif", clean((1, 20, 20)))
    assert exit_code(app, ["despeckle", str(source), str(tmp_path / "out.tif"), *extra]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_the_command_knows_every_filter_of_a_recipe() -> None:
    assert get_args(Kind) == (*get_args(SpeckleKind), "multitemporal")
