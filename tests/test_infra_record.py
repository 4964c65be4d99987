"""Names of values do not depend on how the value was written down."""

import pytest

from infra.record import canonical_json, digest, sha256


def test_canonical_json_sorts_keys_and_keeps_unicode() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None, "ü"]}) == '{"a":[1.5,null,"ü"],"b":1}'.encode()


def test_equal_values_have_one_name() -> None:
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1}) == sha256(b'{"x":1,"y":2}')
    assert digest({"x": 1}) != digest({"x": 2})


def test_digest_is_frozen() -> None:
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_not_a_number_has_no_name() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(float("nan"))
