"""Lee, Kuan, Frost and Gamma-MAP against Orfeo ToolBox."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from oracles import orfeo
from speckle_reference import speckled

from ingest.speckle import filter_power

# Our name, theirs, the option that is the number of looks or Frost's damping.
FILTERS = [
    ("lee", "lee", "nblooks"),
    ("kuan", "kuan", "nblooks"),
    ("gamma-map", "gammamap", "nblooks"),
    ("frost", "frost", "deramp"),
]


@pytest.fixture(scope="module")
def despeckle() -> str:
    return orfeo("otbcli_Despeckle")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    """Fields, bright points, negative means, and ground without mean or variance, as a file and as pixels."""
    power = speckled((1, 160, 210), seed=6, holes=False)[0]
    power[20:40, 30:60] = 0.0  # no mean
    power[60:80, 30:60] = 0.03  # no variance
    power[100:120] *= 1e-4  # below what the toolbox takes for a variance
    profile = {"driver": "GTiff", "width": 210, "height": 160, "count": 1, "dtype": "float32"}
    path = tmp_path_factory.mktemp("otb") / "power.tif"
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path, "w", **profile) as file:
        file.write(power, 1)
    return path, power


@pytest.mark.parametrize(("kind", "theirs", "option"), FILTERS)
@pytest.mark.parametrize(("radius", "number"), [(1, 1.0), (3, 4.4), (3, 0.1), (5, 2.7)])
def test_filters_agree_with_orfeo_toolbox(
    despeckle: str, scene, tmp_path: Path, kind: str, theirs: str, option: str, radius: int, number: float
) -> None:
    source, power = scene
    target = tmp_path / "filtered.tif"
    subprocess.run(
        [despeckle, "-in", source, "-out", target, "float", "-filter", theirs,
         f"-filter.{theirs}.rad", str(radius), f"-filter.{theirs}.{option}", str(number)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(target) as file:
        expected = file.read(1)
    size = 2 * radius + 1
    ours = filter_power(power[None], kind, size, number, damping=number)[0]
    # The toolbox takes the root of a negative number where a mean above zero holds a pixel well below it.
    lost = np.isnan(expected)
    assert lost.mean() < 0.005
    assert not lost.any() or kind == "gamma-map"
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours[~lost], expected[~lost], rtol=1e-5, atol=1e-10)  # -100 dB, where it cancels
