import json
import resource
import subprocess
import sys

import pytest
from corpora import make_corpus

from infra.command import exit_code
from shards.cli import app


@pytest.fixture
def corpus(tmp_path):
    store, manifest = make_corpus(str(tmp_path / "corpus"), (7, 4), label=True)
    return store, manifest, str(tmp_path / "corpus")


def call(capsys, *argv):
    code = exit_code(app, list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_ls_lists_the_shards(corpus, capsys):
    _, manifest, url = corpus
    code, out, err = call(capsys, "ls", url)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", len(manifest.shards) + 2)
    assert [line.split()[2] for line in lines[1:-1]] == [shard.key for shard in manifest.shards]
    assert lines[-1].split()[0] == "11"


def test_ls_urls_are_for_other_tools(corpus, capsys):
    _, manifest, url = corpus
    code, out, _ = call(capsys, "ls", url, "--urls")
    assert code == 0
    assert out.splitlines() == [f"file://{url}/{shard.key}" for shard in manifest.shards]


def test_show_summarises_the_manifest(corpus, capsys):
    _, manifest, url = corpus
    code, out, _ = call(capsys, "show", url)
    assert code == 0
    for said in (manifest.digest, manifest.recipe_digest, "11 in", "scene-0", "VV+VH", "1000 x 2000"):
        assert said in out
    code, out, _ = call(capsys, "show", url, "--json")
    shown = json.loads(out)
    assert (shown["digest"], shown["tiles"], shown["sources"][1]["id"]) == (manifest.digest, 11, "scene-1")


def test_show_knows_a_tile(corpus, capsys):
    _, manifest, url = corpus
    code, out, _ = call(capsys, "show", url, "scene-1-0002", "--json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["scene"], shown["shape"], shown["label"]) == ("scene-1", [2, 16, 16], True)
    assert shown["shard"] in {shard.key for shard in manifest.shards}
    code, out, _ = call(capsys, "show", url, "scene-1-0002")
    assert "mean_db        [-10.5, -17.25]" in out.splitlines()


def test_verify_says_whole(corpus, capsys):
    _, manifest, url = corpus
    for options in ((), ("--deep",)):
        code, out, err = call(capsys, "verify", url, *options)
        assert (code, err) == (0, "")
        assert out.endswith(f"{len(manifest.shards)} shards, 11 tiles, {manifest.bytes} bytes: whole\n")


def test_verify_names_every_bad_shard(corpus, capsys):
    store, manifest, url = corpus
    bad = [manifest.shards[0].key, manifest.shards[2].key]
    store.delete(bad[0])
    data = bytearray(store.get(bad[1]))
    data[700] ^= 4
    store.put(bad[1], bytes(data))
    code, out, _ = call(capsys, "verify", url)
    assert (code, out.count("BAD")) == (1, 1)
    code, out, _ = call(capsys, "verify", url, "--deep")
    assert code == 1
    assert all(f"BAD {key}: " in out for key in bad)
    code, out, _ = call(capsys, "verify", url, "--deep", "--json")
    assert code == 1
    assert {fault["shard"] for fault in json.loads(out)["faults"]} == set(bad)


def test_errors_are_one_line_with_their_code(corpus, capsys, tmp_path):
    store, manifest, url = corpus
    code, out, err = call(capsys, "ls", str(tmp_path / "nowhere"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("shards: error: no corpus at")
    code, _, err = call(capsys, "show", url, "nobody")
    assert (code, "no tile 'nobody'" in err) == (2, True)
    store.put(manifest.index[0].key, b"x")
    code, _, err = call(capsys, "verify", url)
    assert (code, "is damaged: expected" in err, err.count("\n")) == (1, True, 1)
    store.put("manifest.json", b"{}")
    code, _, err = call(capsys, "verify", url)
    assert (code, "is not a valid manifest" in err, "Traceback" in err) == (1, True, False)
    assert call(capsys, "verify")[0] == 2


def test_help_is_instant_and_fits_80_columns():
    command = [sys.executable, "-c", "from shards.cli import main; main()"]
    for argv in (["--help"], ["ls", "--help"], ["show", "--help"], ["verify", "--help"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(command + argv, capture_output=True, text=True, env={"COLUMNS": "80"}, check=False)
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0  # 0.2 s on an idle machine
        assert (done.returncode, done.stderr) == (0, "")
        assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_help_loads_nothing_heavy():
    code = (
        "import sys, shards.cli; sys.exit(bool({'numpy', 'pyarrow', 'blosc2', 'boto3', 'shapely'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
