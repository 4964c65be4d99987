from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from sentinel1_products import EW_352, IPF_236, IPF_340, SLC_ZIP, unpack

from ingest.lut import Noise, NoiseBlock, Vectors, mend_wave_noise, read_calibration, read_noise
from ingest.scene import SceneRejected
from ingest.xml import parse


def side(product: Path, kind: str) -> Element:
    return parse(min((product / "annotation" / "calibration").glob(f"{kind}-*.xml")).read_bytes(), kind)


def test_every_quantity_has_its_lut(shared_data: Path, tmp_path: Path) -> None:
    root = side(unpack(shared_data, IPF_340, tmp_path), "calibration")
    found = {q: read_calibration(root, "c", q) for q in ("sigma0", "beta0", "gamma0", "gamma0-terrain")}
    sigma, beta, gamma = (found[q].values[0] for q in ("sigma0", "beta0", "gamma0"))
    # sigma0 = beta0 sin(incidence), gamma0 = sigma0 / cos(incidence): here from 30.7 to 46.1 degrees.
    sine, cosine = (beta / sigma) ** 2, (gamma / sigma) ** 2
    np.testing.assert_allclose(sine**2 + cosine**2, 1, atol=1e-4)
    assert np.degrees(np.arcsin(sine[[0, -1]])) == pytest.approx([30.3, 46.1], abs=0.5)
    assert all(map(np.array_equal, found["gamma0-terrain"].values, found["beta0"].values))
    vectors = found["sigma0"]
    assert vectors.times is not None
    assert vectors.times[0] == np.datetime64("2021-12-23T05:11:22.594441")
    assert (np.diff(vectors.times) > np.timedelta64(0)).all()


@pytest.mark.parametrize(
    ("name", "blocks", "swaths"),
    [(IPF_236, 0, set()), (IPF_340, 3, {"IW1", "IW2", "IW3"}), (EW_352, 17, {f"EW{n}" for n in range(1, 6)})],
)
def test_noise_of_each_layout(shared_data: Path, tmp_path: Path, name: str, blocks: int, swaths: set[str]) -> None:
    noise = read_noise(side(unpack(shared_data, name, tmp_path), "noise"), "n")
    assert len(noise.blocks) == blocks
    assert {block.swath for block in noise.blocks} == swaths
    assert any(v.any() for v in noise.vectors.values) == (name != IPF_236)  # IPF 2.36 annotated zeros only
    assert all(len(p) == len(v) for p, v in zip(noise.vectors.pixels, noise.vectors.values, strict=True))


def test_vectors_of_an_image_have_pixels_of_their_own(shared_data: Path, tmp_path: Path) -> None:
    slc = unpack(shared_data, SLC_ZIP, tmp_path / "slc")
    assert read_calibration(side(slc, "calibration"), "c").lines[0] < 0
    ew = read_noise(side(unpack(shared_data, EW_352, tmp_path / "ew"), "noise"), "n").vectors
    assert len({len(p) for p in ew.pixels}) > 1


@pytest.mark.parametrize(
    ("tag", "text", "message"),
    [
        ("azimuthTime", "yesterday", "azimuthTime is 'yesterday', expected a time"),
        ("azimuthTime", "", "azimuthTime is missing or empty"),
        ("line", "1e9", "do not ascend"),
        ("sigmaNought", "1 2", "has 2 values, expected"),
        ("pixel", "5 4", "2"),
    ],
)
def test_damaged_vectors_are_refused(shared_data: Path, tmp_path: Path, tag: str, text: str, message: str) -> None:
    root = side(unpack(shared_data, IPF_340, tmp_path), "calibration")
    vector: Any = root.find("calibrationVectorList/calibrationVector")
    vector.find(tag).text = text
    with pytest.raises(SceneRejected, match=message):
        read_calibration(root, "calibration.xml")


def test_wave_noise_of_two_processors_is_mended() -> None:
    pixels = np.array([0.0, 9.0])
    vectors = Vectors(np.zeros(1), (pixels,), (np.array([1e6, 2e6]),))
    noise = Noise(vectors, (NoiseBlock("WV1", 0, 9, 0, 9, np.zeros(1), np.ones(1)),))
    mended = mend_wave_noise(noise, "S1B", "WV2", (2, 91))
    np.testing.assert_allclose(mended.vectors.values[0], [1e6 * 10**-3.744, 2e6 * 10**-3.744])
    assert mended.blocks == noise.blocks
    for platform, swath, ipf in [("S1A", "WV1", (2, 92)), ("S1A", "IW1", (2, 91)), ("S1C", "WV1", (3, 90))]:
        assert mend_wave_noise(noise, platform, swath, ipf) is noise
