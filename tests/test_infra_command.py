"""Commands end with one line and the promised exit code."""

import subprocess
import sys
import time

import pytest

from infra.command import command_app, exit_code
from infra.errors import ConflictError, PartialError, ResourceError, SarsenseError, UsageError

COMMANDS = ("ingest", "shards", "pretrain", "finetune", "infra")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SarsenseError, 1),
        (UsageError, 2),
        (PartialError, 3),
        (ResourceError, 4),
        (ConflictError, 5),
        (KeyboardInterrupt, 130),
    ],
)
def test_exit_codes(error: type[BaseException], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    app = command_app("thing", "A thing.")

    @app.default
    def fail() -> None:
        raise error("what was found")

    assert exit_code(app, []) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("thing: ")


def test_a_typo_is_refused_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    app = command_app("thing", "A thing.")

    @app.command
    def build(*, workers: int = 1) -> None: ...

    assert exit_code(app, ["build", "--worker", "2"]) == 2
    assert "--workers" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns_and_loads_nothing_heavy(name: str) -> None:
    code = f"""
import sys
from {name}.cli import app
app(["--help"], exit_on_error=False, result_action="return_value")
heavy = {{"torch", "ray", "rasterio", "numba", "matplotlib", "pyarrow", "boto3"}} & set(sys.modules)
assert not heavy, heavy
"""
    start = time.monotonic()
    narrow = {"COLUMNS": "80", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=narrow)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 20  # a fraction of a second when the machine is free
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "Usage:" in done.stdout
