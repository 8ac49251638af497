"""The words of a command line, `key=value`, one by one: their names, and what they ask for."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.cli.folders import config_groups

RENAMED = {
    "on_bad": "on_invalid",
    "closing_epochs": "close_mosaic_epochs",
    "task.closing": "task.l1_final_fraction",
}
"""Settings that once had another name, which is still read; with a dot it is the whole key."""
TEXT = {
    "backbone.pretrained", "checkpoint", "dataset", "detections", "init_from", "licence", "out", "output", "pretrained",
    "repo", "resume", "run_dir", "source",
}  # fmt: skip
"""Keys whose text after the first `=` is taken as it stands, like that of the names and folders of `data`."""
WORDS = {"null": None, "true": True, "false": False}


def renamed(word: str) -> str:
    """`word` with present names in the place of earlier ones, in its key and in a mapping that it gives."""
    key, equals, value = word.partition("=")
    for old, new in RENAMED.items():
        found = re.sub(rf"(?<![\w.]){old}$" if "." in old else rf"(?<!\w){old}$", new, key)
        given = re.sub(rf"(?<=[{{,\s]){old}(?=\s*:)", new, value) if value[:1] in ("{", "[") else value
        if (found, given) != (key, value):
            say_renamed(old, new)
        key, value = found, given
    return f"{key}{equals}{value}"


def say_renamed(old: str, new: str) -> None:
    """Prints the present name of a setting."""
    print(f"note: the setting {old} is called {new} now", file=sys.stderr)


def value_of(word: str) -> Any:
    """What a word asks for, read as Hydra reads it."""
    override = parsed(word)
    if override.is_sweep_override():
        raise ValueError(f"{word} asks for several values; give --multirun as well, or quotes around a comma")
    return override.value()


def parsed(word: str) -> Any:
    """The word as Hydra's parser understands it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        key, equals, value = word.partition("=")
        raise ValueError(
            f"cannot read the value of {key} in {word!r}; a text goes into two kinds of quotes: '{key}=\"…\"'"
            if equals and value
            else f"cannot read {word!r}; settings are given as key=value"
        ) from None


def first_values(word: str) -> str:
    """`word` with the first of the values that it asks for, checked; as it is where it asks for one."""
    key, equals, _ = word.partition("=")
    if not equals or key in TEXT:
        return word
    try:
        override = parsed(word)
    except ValueError:  # a text of `data`, or a mistake that is found where it is read
        return word
    if not override.is_sweep_override():
        return word
    if override.is_interval_sweep():
        return f"{key}={override.value().start}"
    values = list(override.sweep_string_iterator())
    if key in (groups := config_groups()):
        check_choice(key, values, groups[key])
    return f"{key}={values[0]}"


def check_choice(group: str, value: Any, choices: list[str]) -> None:
    """ValueError with the nearest choice where `value`, or one of its items, is none of the group's."""
    for choice in value if isinstance(value, list) else [value]:
        if str(choice) not in choices and (choice is not None or isinstance(value, list)):
            from backbones.checks import suggest

            raise ValueError(f"{group}={choice} is not in configs/{group}/; {suggest(str(choice), choices)}")


def text_of(word: str) -> str:
    """What stands behind the first `=`."""
    return word.split("=", 1)[1]


def as_it_stands(word: str, key: str) -> Any:
    """The text after the first `=` as it stands, though null means what it says, and true and false of weights."""
    text = text_of(word)
    # Of a variable of the shell that is not set; as a path it would be the current folder.
    if not text and (key in TEXT or key in ("data.root", "data.file")):
        raise ValueError(f"{key}= is empty; give it a value, or leave it out")
    if text in WORDS and (text == "null" or key.endswith("pretrained")):
        return WORDS[text]
    return text.replace("${", "\\${")


def as_settings(words: Sequence[str], words_are: str, lists: Sequence[str]) -> Iterator[str]:
    """`words` as `key=value`: plain words become a list of values of `words_are`, and `--key A` `key=A`.

    `resnet50,output_stride=8` is a plain word: a comma comes before its equals sign.
    """
    plain: list[str] = []
    options: dict[str, list[str]] = {}
    takes: str | None = None  # the option that the next plain word belongs to
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if word in ("--multirun", "--help"):
            yield word
        elif word.startswith("--"):
            options[key] = [value] if equals else []
            takes = None if equals else key
        elif equals and key.lstrip("+~").replace(".", "_").isidentifier():
            yield word
            takes = None
        elif takes is None:
            plain.append(word)
        else:
            options[takes].append(word)
            takes = takes if takes in lists else None
    if plain:
        yield f"{words_are}=[{','.join(map(_quoted, plain))}]"
    for key, values in options.items():
        if not values:
            raise ValueError(f"--{key} has no value; give {key}=…")
        joined = ",".join(v if re.fullmatch(r"[\w./+-]+", v) else _quoted(v) for v in values)
        yield f"{key}=[{joined}]" if key in lists else f"{key}={joined}"


def _quoted(text: str) -> str:
    """`text` as Hydra's override grammar takes it as it stands."""
    escaped = text.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{escaped}'"
