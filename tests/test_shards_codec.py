import hashlib
import io
import json

import blosc2
import numpy as np
import pytest
from corpora import make_tile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from shards.codec import CodecError, decode_pixels, encode, encode_npy, npy_header
from shards.tile import Tile

SHAPES = array_shapes(min_dims=3, max_dims=3, max_side=40)
CODECS = st.sampled_from(["npy", "blosc2"])


@settings(max_examples=150, deadline=None)
@given(arrays(np.uint16, SHAPES), CODECS, st.booleans())
def test_what_is_encoded_is_decoded(pixels, codec, into):
    payload = dict(encode(Tile("k", pixels, {}), codec))[codec]
    out = np.empty_like(pixels) if into else None
    decoded = decode_pixels(payload, codec, pixels.shape, "<u2", out)
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.flags.writeable
    assert not into or decoded is out


@settings(max_examples=100, deadline=None)
@given(array_shapes(min_dims=1, max_dims=4, max_side=12), st.sampled_from(["<u2", "|u1", "<f4", "<i8"]))
def test_npy_is_what_numpy_writes_and_reads(shape, dtype):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    expected = io.BytesIO()
    np.save(expected, array)
    assert encode_npy(array) == expected.getvalue()
    np.testing.assert_array_equal(np.load(io.BytesIO(encode_npy(array))), array)


def test_pixels_begin_at_a_multiple_of_64():
    assert {len(npy_header((bands, 256, 256), np.dtype("<u2"))) % 64 for bands in (1, 2, 13)} == {0}


def test_a_plain_reader_of_blosc2_needs_one_line():
    tile = make_tile("t", size=32, label=True)
    members = dict(encode(tile, "blosc2"))
    meta = json.loads(members["json"])
    plain = np.frombuffer(blosc2.decompress2(members["blosc2"]), meta["dtype"]).reshape(meta["shape"])
    np.testing.assert_array_equal(plain, tile.pixels)
    np.testing.assert_array_equal(np.load(io.BytesIO(members["label.npy"])), tile.label)
    assert meta == {**tile.meta, "key": "t", "shape": [2, 32, 32], "dtype": "<u2"}


def test_the_bytes_are_frozen():
    tile = make_tile("t", size=300, label=True, seed=1)
    found = {c: [hashlib.sha256(p).hexdigest()[:16] for _, p in encode(tile, c)] for c in ("npy", "blosc2")}
    assert found == GOLDEN


GOLDEN = {
    "npy": ["d03f69b9398f8553", "a203001fa7b7b219", "6ec50094a78ef23f"],
    "blosc2": ["afce5a20336904b0", "a203001fa7b7b219", "6ec50094a78ef23f"],
}


def test_big_endian_and_strided_pixels_are_stored_alike():
    tile = make_tile("t")
    strided = Tile("t", np.asfortranarray(tile.pixels).astype(">u2"), tile.meta)
    for codec in ("npy", "blosc2"):
        assert encode(strided, codec) == encode(tile, codec)


def test_blosc2_is_smaller_than_npy_on_speckle():
    rng = np.random.default_rng(0)
    level = 10 * np.log10(rng.gamma(4.4, 1 / 4.4, (2, 256, 256))) - 12
    codes = np.rint(level / 0.01).astype(np.int32).astype(np.uint16)  # a coarse step
    tile = Tile("t", codes, {})
    sizes = {codec: len(dict(encode(tile, codec))[codec]) for codec in ("npy", "blosc2")}
    assert sizes["blosc2"] < 0.75 * sizes["npy"]


@pytest.mark.parametrize("codec", ["npy", "blosc2"])
def test_a_payload_of_another_shape_or_length_is_refused(codec):
    payload = dict(encode(make_tile("t", size=16), codec))[codec]
    for wrong in (payload[:-1], payload + b"x", payload[:10], b""):
        with pytest.raises(CodecError):
            decode_pixels(wrong, codec, (2, 16, 16), "<u2")
    with pytest.raises(CodecError, match="expected"):
        decode_pixels(payload, codec, (2, 16, 17), "<u2")
    with pytest.raises(ValueError, match="C-contiguous"):
        decode_pixels(payload, codec, (2, 16, 16), "<u2", np.empty((2, 16, 16), "<i4"))


def test_object_arrays_are_never_unpickled():
    stored = io.BytesIO()
    np.save(stored, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CodecError):
        decode_pixels(stored.getvalue(), "npy", (1,), "<u2")


def test_meta_may_not_use_the_names_of_the_codec():
    with pytest.raises(ValueError, match="shape"):
        encode(make_tile("t", shape=[1]), "npy")


def test_nan_in_meta_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        encode(make_tile("t", valid_share=float("nan")), "npy")
