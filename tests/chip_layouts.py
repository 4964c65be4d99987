"""Miniatures of public data sets in their publishers' layouts: the real names and types, two chips each, our pixels.

``python tests/chip_layouts.py FOLDER`` writes them all to look at.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

SIDE = 24
S1_A = "S1A_IW_GRDH_1SDV_20170613T165043"
S1_B = "S1B_IW_GRDH_1SDV_20180102T051122"


def levels(number: int, bands: int) -> np.ndarray:
    """Decibels of a chip: the left half dark, the right half bright, each band and chip its own."""
    level_db = np.full((bands, SIDE, SIDE), -8.0, np.float32)
    level_db[:, :, : SIDE // 2] = -20.0
    return level_db - np.arange(bands, dtype=np.float32)[:, None, None] - 0.25 * number


def halves(left: int, right: int, dtype: str = "uint8") -> np.ndarray:
    label = np.full((1, SIDE, SIDE), right, dtype)
    label[:, :, : SIDE // 2] = left
    return label


def write(path: Path, bands: np.ndarray, *, placed: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"count": len(bands), "height": SIDE, "width": SIDE, "dtype": bands.dtype}
    if placed:
        profile |= {"crs": "EPSG:32631", "transform": Affine(10, 0, 593_000, 0, -10, 5_747_000)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        driver = "PNG" if path.suffix == ".png" else "GTiff"
        with rasterio.open(path, "w", driver=driver, **profile) as file:
            file.write(bands)


def amplitudes(number: int, bands: int, dtype: str, one_db: float) -> np.ndarray:
    return np.rint(one_db * 10.0 ** (levels(number, bands) / 20.0)).astype(dtype)


def sen1floods11(folder: Path) -> None:
    for number, event in enumerate(("Ghana_53713", "Sri-Lanka_534068")):
        write(folder / f"S1Hand/{event}_S1Hand.tif", levels(number, 2))
        write(folder / f"LabelHand/{event}_LabelHand.tif", halves(1, 0, "int16"))


def air_polsar_seg(folder: Path) -> None:
    for number in range(2):
        for band, polarisation in enumerate(("HH", "HV", "VH", "VV")):
            write(folder / f"{number}_{polarisation}.tiff", amplitudes(number, 4, "uint16", 1e4)[[band]], placed=False)


def fusar_map(folder: Path) -> None:
    blue, red = (0, 0, 255), (255, 0, 0)
    colours = np.stack([halves(a, b)[0] for a, b in zip(blue, red, strict=True)])
    for number in range(2):
        name = f"JiuJiang_01_01_01_01_{{}}_{number + 1:03d}.tif"
        write(folder / "sar_1024" / name.format("SAR"), amplitudes(number, 1, "uint8", 200), placed=False)
        write(folder / "lab_1024" / name.format("LAB"), colours, placed=False)


def whu_opt_sar(folder: Path) -> None:
    for number, sheet in enumerate(("NH49E004021", "NH49E013021")):
        write(folder / f"sar/{sheet}.tif", amplitudes(number, 1, "uint8", 200))
        write(folder / f"lbl/{sheet}.tif", halves(40, 20))


def openearthmap_sar(folder: Path) -> None:
    for number in range(2):
        write(folder / f"sar_images/TrainArea_{number:04d}.tif", amplitudes(number, 1, "uint8", 200))
        write(folder / f"labels/TrainArea_{number:04d}.tif", halves(6, 0))


def sen12ms(folder: Path) -> None:
    for number in range(2):
        place = folder / "ROIs1158_spring"
        label = np.concatenate([halves(17, 13, "uint16"), *[halves(1, 2, "uint16")] * 3])
        write(place / f"s1_{number + 1}/ROIs1158_spring_s1_{number + 1}_p30.tif", levels(number, 2))
        write(place / f"lc_{number + 1}/ROIs1158_spring_lc_{number + 1}_p30.tif", label)


def dfc2020(folder: Path) -> None:
    for number in range(2):
        place = folder / "ROIs0000_validation"
        write(place / f"s1_0/ROIs0000_validation_s1_0_p{number}.tif", levels(number, 2))
        write(place / f"dfc_0/ROIs0000_validation_dfc_0_p{number}.tif", halves(10, 7, "uint16"))


def spacenet_6(folder: Path) -> None:
    for number in range(2):
        tile = f"20190804111224_20190804111453_tile_{7879 + number}"
        write(folder / f"SAR-Intensity/SN6_Train_AOI_11_Rotterdam_SAR-Intensity_{tile}.tif", levels(number, 4))
        x, y, middle, low = 593_000, 5_747_000, 593_000 + 10 * SIDE // 2, 5_747_000 - 10 * SIDE
        ring = [[x, y], [middle, y], [middle, low], [x, low], [x, y]]
        shapes = {
            "type": "FeatureCollection",
            "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}},
            "features": [{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}],
        }
        path = folder / f"geojson_buildings/SN6_Train_AOI_11_Rotterdam_Buildings_{tile}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(shapes))


def bigearthnet_s1(folder: Path) -> None:
    for number, product in enumerate((S1_A, S1_B)):
        patch = f"{product}_33UUP_61_{39 + number}"
        for band, polarisation in enumerate(("VV", "VH")):
            write(folder / patch / f"{patch}_{polarisation}.tif", levels(number, 2)[[band]])


def ssl4eo_s12(folder: Path) -> None:
    for number, product in enumerate((S1_A, S1_B)):
        name = f"{product}_20180102T051147_009012_0101A2_{number:04X}"
        for band, polarisation in enumerate(("VV", "VH")):
            write(folder / f"{number:07d}" / name / f"{polarisation}.tif", levels(number, 2)[[band]])


def kompsat5_water(folder: Path) -> None:
    for number in range(2):
        write(folder / f"img/K5_{number:04d}.tif", amplitudes(number, 1, "uint16", 1e4))
        write(folder / f"mask/K5_{number:04d}_label.tif", halves(255, 0, "uint16"))


MINIATURES: dict[str, Callable[[Path], None]] = {
    "air-polsar-seg": air_polsar_seg,
    "bigearthnet-s1": bigearthnet_s1,
    "dfc2020": dfc2020,
    "fusar-map": fusar_map,
    "kompsat5-water": kompsat5_water,
    "openearthmap-sar": openearthmap_sar,
    "sen12ms": sen12ms,
    "sen1floods11": sen1floods11,
    "spacenet-6": spacenet_6,
    "ssl4eo-s12": ssl4eo_s12,
    "whu-opt-sar": whu_opt_sar,
}


def make(layout: str, folder: Path) -> Path:
    """Write a miniature and the ``chips.yaml`` beside it that names its layout; give the path of the latter."""
    MINIATURES[layout](folder)
    description = folder / "chips.yaml"
    description.write_text(f"layout: {layout}\n")
    return description


if __name__ == "__main__":
    for layout_name in MINIATURES:
        make(layout_name, Path(sys.argv[1]) / layout_name)
