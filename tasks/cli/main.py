"""The runner of every tool: its configuration, its help, and errors as one sentence.

`--traceback` shows where an error came from, `--help` what can be set, `--multirun` runs several values.
"""

from __future__ import annotations

import contextlib
import errno
import sys

from tasks.cli.compose import CONFIGS, compose, config_groups

EXIT_USER_ERROR = 2
OF_DISKS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""Errors of a disk that is full or takes nothing; the system names no file with them."""


def run_tool(config_name: str, run: str, usage: str) -> None:
    """Composes `configs/<config_name>.yaml` with the command line and calls `run` ("module:function") on it.

    A mistake of the user's ends in one sentence on standard error and exit status 2; the value that
    `run` returns is the exit status otherwise (None is 0).
    """
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        with contextlib.suppress(BrokenPipeError):  # of `--help | head`
            print(help_text(config_name, usage), flush=True)  # imports nothing: the answer comes at once
            return
        sys.stdout = None  # or Python would flush it once more
        return
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        if {"--multirun", "-m"} & set(words):
            from tasks.cli.sweep import sweep

            sys.exit(sweep(config_name, [word for word in words if word not in ("--multirun", "-m")]))
        config = compose(config_name, words)
        module, function = run.split(":")
        sys.exit(getattr(__import__(module, fromlist=[function]), function)(config))
    except Exception as error:
        cause = user_error(error)
        if traceback or cause is None:
            raise
        print(f"error: {sentence(cause)}\n(--traceback shows where this came from)", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def help_text(config_name: str, usage: str) -> str:
    """What can be set: the usage, the groups with their choices, and the configuration file itself."""
    groups = "\n".join(f"  {group}={'|'.join(choices)}" for group, choices in config_groups().items())
    return (
        f"{usage.strip()}\n\nChoices, each a file in configs/:\n{groups}\n\n"
        f"Settings (configs/{config_name}.yaml), given as key=value:\n\n"
        f"{(CONFIGS / f'{config_name}.yaml').read_text()}\n"
        "Every argument of the objects that a configuration names can be set as well.\n"
        "--multirun runs every combination of values as in optimizer.lr=0.01,0.02 and prints one table.\n"
        "--traceback shows where an error came from."
    )


def user_error(error: BaseException) -> BaseException | None:
    """The mistake of the user's behind `error`, or None when it is ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError):  # of a file that a setting names, or of a disk that takes no more
        return error if error.filename is not None or error.errno in OF_DISKS or error.errno is None else None
    return error if isinstance(error, ValueError | HydraException | OmegaConfBaseException) else None


def sentence(error: BaseException) -> str:
    """What the error says, without Python's number in front of what the system said."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    what = error.strerror[:1].lower() + error.strerror[1:]
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' and '.join(map(repr, names))}: {what}" if names else what
