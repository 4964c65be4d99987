"""Decibels as codes: exact at every boundary, the same on every processor."""

import os
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from infra.record import sha256
from shards.tile import NO_DATA, DbScale, _least_powers

SCALE = DbScale()


def test_codes_follow_their_definition() -> None:
    level = np.arange(-59.9, 60.0, 0.0137)
    code = SCALE.encode((10.0 ** (level / 10)).astype(np.float32))
    expected = 1 + (level - SCALE.floor_db) / SCALE.step_db
    assert np.abs(code - expected).max() <= 0.5 + 1e-2
    assert np.abs(SCALE.decode(code) - level).max() <= SCALE.step_db / 2 + 1e-4


def test_every_code_comes_back() -> None:
    codes = np.arange(1, 65536).astype(np.uint16)
    power = (10.0 ** (SCALE.decode(codes).astype(np.float64) / 10)).astype(np.float32)
    np.testing.assert_array_equal(SCALE.encode(power), codes)


def test_boundaries_are_exact() -> None:
    least = _least_powers(SCALE.floor_db, SCALE.step_db)[2:-1]
    codes = np.arange(2, 65536)
    np.testing.assert_array_equal(SCALE.encode(least), codes)
    np.testing.assert_array_equal(SCALE.encode(np.nextafter(least, np.float32(0))), codes - 1)


def test_dark_bright_and_missing() -> None:
    power = np.array([np.nan, -1.0, 0.0, 1e-30, 1e30, np.inf], np.float32)
    assert SCALE.encode(power).tolist() == [NO_DATA, 1, 1, 1, 65535, 65535]
    assert np.isnan(SCALE.decode(np.array([0], np.uint16)))[0]


PRINT = """
import numpy as np
from infra.record import sha256
from shards.tile import DbScale, _least_powers
power = np.random.default_rng(1).gamma(0.5, 0.2, 1 << 20).astype(np.float32)
print(sha256(_least_powers(-60.0, 0.002).tobytes()), sha256(DbScale().encode(power).tobytes()))
"""


def test_the_same_on_a_processor_without_wide_vectors() -> None:
    plain = {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX AVX2 FMA3"}
    told = []
    for extra in ({}, plain):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PRINT], env=os.environ | extra, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.split())
    assert told[0] == told[1]
    assert [digest[:16] for digest in told[0]] == ["49a13c83c69accc6", "6daf4533ef92def3"]
    assert sha256(_least_powers(-60.0, 0.002).tobytes()) == told[0][0]


def test_a_step_finer_than_float32_can_tell_is_refused() -> None:
    with pytest.raises(ValidationError, match="step_db"):
        DbScale(step_db=1e-6)
