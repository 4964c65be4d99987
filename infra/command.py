"""How every command of the project starts and ends: options, one-line errors, exit codes."""

import os
import sys
from typing import Any

import cyclopts

from infra.errors import ResourceError, SarsenseError, UsageError


def command_app(name: str, summary: str) -> cyclopts.App:
    """Make the application of one console script; its commands are added with ``@app.command``."""
    from importlib.metadata import version

    return cyclopts.App(
        name=name,
        help=summary,
        version=lambda: version("sarsense"),
        version_flags=("--version", "-V"),
        suppress_keyboard_interrupt=False,
    )


def run(app: cyclopts.App, argv: list[str] | None = None) -> None:
    """Run a command line and leave the process with its exit code.

    A SarsenseError ends with its one message on stderr and its exit code, a usage error with 2, an interrupt with 130.
    """
    # OpenMP's threads spin at every barrier by default: on a machine that is shared they then cost five times the
    # processor time (measured with torch on two busy cores). Read once, when torch is loaded, so it is set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(exit_code(app, argv))


def exit_code(app: cyclopts.App, argv: list[str] | None = None) -> int:
    """Run a command line and give its exit code."""
    try:
        result: Any = app(argv, exit_on_error=False, result_action="return_value")
    except SarsenseError as error:
        sys.stderr.write(f"{app.name[0]}: error: {error}\n")
        return error.exit_code
    except cyclopts.CycloptsError:
        return UsageError.exit_code  # cyclopts has printed what is wrong
    except OSError as error:
        sys.stderr.write(f"{app.name[0]}: error: {error}\n")
        return ResourceError.exit_code
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{app.name[0]}: interrupted{f': {error}' if str(error) else ''}\n")
        return 130
    return result if isinstance(result, int) else 0


def say(*lines: str) -> None:
    """Write a command's result to stdout."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
