"""The commands as a user calls them, in this process: a new one would import for seconds."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from tasks.cli.main import run_tool

ROOT = Path(__file__).parents[1]


def command(name: str, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `python tools/NAME.py WORDS` in the folder `cwd` returns and prints."""
    output, errors = io.StringIO(), io.StringIO()
    arguments, folder, environment = sys.argv, Path.cwd(), dict(os.environ)
    sys.argv = [str(ROOT / "tools" / f"{name}.py"), *map(str, words)]
    os.chdir(cwd or folder)
    status: object = None
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            run_tool(name.replace("_", "-"))
    except SystemExit as end:
        status = end.code
    finally:
        called, sys.argv = sys.argv, arguments
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
    assert status is None or isinstance(status, int)
    return subprocess.CompletedProcess(called, status or 0, output.getvalue(), errors.getvalue())
