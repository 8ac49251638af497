"""`vertebra COMMAND key=value …`: runs a command, and ends a mistake of the user's in one sentence.

`--traceback` shows where an error came from, `--help` what can be set, `--multirun` runs several values,
`--json` prints an object for programs, `--quiet` results alone, `--config-dir DIR` puts a folder of configuration files
on top of the project's own. Help imports nothing heavy, so that it comes at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from tasks.cli.commands import COMMANDS, Command, help_text, overview, usage
from tasks.cli.compose import compose
from tasks.cli.errors import user_sentence
from tasks.cli.folders import put_on_top, take_config_dirs
from tasks.cli.output import Found, take_flags
from tasks.cli.startup import import_less
from tasks.cli.words import as_settings

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT


def main() -> None:
    """`vertebra`, with the words of the command line."""
    words = sys.argv[1:]
    if not words or words[0] in ("--help", "-h", "help"):
        _say(overview)
        return
    if words[0] == "--version":
        from importlib.metadata import version

        _say(lambda: f"vertebra {version('vertebra')}")
        return
    if words[0] not in COMMANDS:
        from backbones.checks import suggest

        print(f"error: no command is called {words[0]!r}; {suggest(words[0], COMMANDS)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    _run(words[0], words[1:], f"vertebra {words[0]}", [sys.argv[0], words[0]])


def run_tool(name: str) -> None:
    """The command `name` as a script of `tools/` of a checkout."""
    _run(name, sys.argv[1:], f"python tools/{name.replace('-', '_')}.py", [sys.argv[0]])


def _run(name: str, words: list[str], program: str, script: list[str]) -> None:
    """Composes the configuration of the command `name` with `words` and calls its function on it.

    A mistake of the user's ends in one sentence on standard error and exit status 2. `program` is what help
    calls the command, `script` what a Python interpreter runs for it.
    """
    command, config_name = COMMANDS[name], name.replace("-", "_")
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    # Without the line of source that it came from.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    import_less()
    try:
        words, output = take_flags(words)
        words, folders = take_config_dirs(words)
        put_on_top(folders)
        if {"--help", "-h"} & set(words):
            _say(lambda: help_text(config_name, usage(command, program)))
            return
        if command.words_are is not None:
            words = list(as_settings(words, command.words_are, command.lists))
        if command.first_is is not None and words and "=" not in words[0] and not words[0].startswith("-"):
            words = [f"{command.first_is}={words[0]}", *words[1:]]
        with output.sorted_out():
            if {"--multirun", "-m"} & set(words):
                from tasks.cli.sweep import sweep

                words = [word for word in words if word not in ("--multirun", "-m")]
                script += [f"--config-dir={folder}" for folder in folders]
                found = sweep(config_name, words, script, lambda config: _call(command, config))
            else:
                found = _call(command, compose(config_name, words))
        session = sys.modules.get(
            "tasks.harness.session"
        )  # of commands that train and evaluate, on several ranks
        if output.json and (session is None or session.is_rank_zero()):
            _say(found.to_json)
        sys.exit(found.status)
    except KeyboardInterrupt:
        if traceback:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        told = user_sentence(error)
        if traceback or told is None:
            raise
        print(f"error: {told}\n(--traceback shows where this came from)", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def _call(command: Command, config: Any) -> Found:
    from pkgutil import resolve_name

    from tasks.cli.bar import ReadingBar
    from tasks.data.progress import showing

    with showing(ReadingBar()):
        return resolve_name(command.run)(config)


def _say(text: Callable[[], str]) -> None:
    """Prints the text, be it to a pipe that closes early as in `--help | head`."""
    try:
        print(text(), flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # or Python would flush it once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
