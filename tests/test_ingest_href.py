"""Where a href leads, what it names, and that nothing secret stays in it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import UsageError
from ingest.href import local_path, place_of, product_of, split_part, without_secrets

WORD = st.text("abcXYZ019-_.=%", min_size=1, max_size=12)


@settings(deadline=None)
@given(WORD, WORD, WORD, st.dictionaries(WORD, WORD, min_size=1, max_size=3), st.sampled_from(["https", "s3", "gs"]))
def test_users_and_queries_leave_urls(user: str, password: str, path: str, query: dict[str, str], scheme: str) -> None:
    asked = "&".join(f"{key}={value}" for key, value in query.items())
    url = f"{scheme}://{user}:{password}@host.example/{path}/x?{asked}#IW1"
    assert without_secrets(url) == f"{scheme}://host.example/{path}/x#IW1"
    assert without_secrets(f"at {url}, and '{url}'") == f"at {scheme}://host.example/{path}/x#IW1, and " + (
        f"'{scheme}://host.example/{path}/x#IW1'"
    )


@settings(deadline=None)
@given(st.text(max_size=60))
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert without_secrets(without_secrets(text)) == without_secrets(text)


def test_words_that_are_no_urls_stay() -> None:
    for text in ("is it there? yes", "a@b.c", "C:/x?y", "2024-01-01T00:00:00Z"):
        assert without_secrets(text) == text
    assert without_secrets("/vsicurl/https://h/a.tif?sig=x") == "/vsicurl/https://h/a.tif"


@pytest.mark.parametrize(
    ("href", "place"),
    [("a/b", "local"), ("file:///a", "local"), ("S3://b/k", "s3"), ("https://h/x", "remote"), ("az://c/x", "remote")],
)
def test_places(href: str, place: str) -> None:
    assert place_of(href) == place


def test_a_member_leads_to_its_product() -> None:
    for member in ("manifest.safe", "measurement/iw-vv.tiff", "annotation/calibration/noise-iw-vv.xml"):
        assert product_of(f"s3://b/p/X.SAFE/{member}") == "s3://b/p/X.SAFE"
    assert product_of("/a/X.SAFE/") == "/a/X.SAFE"


def test_parts(tmp_path: Path) -> None:
    assert split_part("s3://b/X.SAFE#IW2") == ("s3://b/X.SAFE", "IW2")
    assert split_part(f"{tmp_path}/X.SAFE") == (f"{tmp_path}/X.SAFE", None)
    assert split_part(f"{tmp_path}/run #4/X.SAFE") == (f"{tmp_path}/run #4/X.SAFE", None)
    (tmp_path / "odd#1").mkdir()
    assert split_part(f"{tmp_path}/odd#1") == (f"{tmp_path}/odd#1", None)


def test_local_paths(tmp_path: Path) -> None:
    assert local_path("a b/x", tmp_path) == tmp_path / "a b/x"
    assert local_path(f"file://{tmp_path}/a%20b", Path("/")) == tmp_path / "a b"
    assert local_path(f"file://localhost{tmp_path}", Path("/")) == tmp_path
    with pytest.raises(UsageError, match="on the host 'nas'"):
        local_path("file://nas/share/x", tmp_path)


def test_a_long_text_is_cleaned_at_once() -> None:
    """A server may send megabytes of letters; looking for a URL from each of them would take hours."""
    text = "a" * 2_000_000
    assert without_secrets(text) == text
    assert without_secrets(f"{text} see...https://user:word@host/x?sig=1") == f"{text} see...https://host/x"
