"""`vertebra COMMAND key=value …`: the commands, their help, and errors as one sentence.

`--traceback` shows where an error came from, `--help` what can be set, `--multirun` runs several values,
`--json` prints an object for programs, `--quiet` results alone, `--config-dir DIR` puts a folder of configuration files
on top of the project's own. Help imports nothing heavy, so that it comes at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.cli.compose import compose
from tasks.cli.folders import CONFIGS, config_groups, put_on_top, take_config_dirs
from tasks.cli.groups import NETWORK_COMMANDS, backbones_text, settings_text
from tasks.cli.output import ABOUT, Found, take_flags
from tasks.cli.startup import import_less

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT
OF_DISKS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""Errors of a disk that is full or takes nothing; the system names no file with them."""


@dataclass(frozen=True)
class Command:
    """One command: what it does, how it is called, and the function that does it.

    Attributes:
        run: "module:function", which gets the configuration and returns what it `Found`.
        about: one sentence.
        examples: words that follow the command.
        words_are: the setting that words without `key=` are values of, if there is one.
        lists: the settings that take several values as `--setting A B`.
        first_is: the setting that a first word without `key=` is the value of, if there is one.
    """

    run: str
    about: str
    examples: tuple[str, ...]
    words_are: str | None = None
    lists: tuple[str, ...] = ()
    first_is: str | None = None


COMMANDS = {
    "train": Command(
        "tasks.cli.train:train",
        "Trains a model.",
        (
            "task=detection                              on the embedded digits",
            "task=detection data.root=DIR                on your own data, in whatever layout it is",
        ),
    ),
    "evaluate": Command(
        "tasks.cli.evaluate:evaluate",
        "Scores a model file or checkpoint as COCO does, and writes its detections in COCO's result format.",
        (
            "checkpoint=runs/…/model.safetensors                      on the data of its run",
            "checkpoint=runs/…/model.safetensors data.root=DIR        on other data of its classes",
            "detections=results.json data=coco data.root=DIR     anybody's results in COCO's format",
        ),
    ),
    "predict": Command(
        "tasks.cli.predict:predict",
        "Writes pictures with what a model finds in them, and one JSON of all of it.",
        (
            "checkpoint=runs/…/model.safetensors source=photo.jpg",
            "checkpoint=runs/…/model.safetensors source='photos/*.png' score_threshold=0.3",
        ),
    ),
    "export": Command(
        "tasks.cli.export:export",
        "Writes a trained model for other programs, ONNX or torch.export, if it finds there what it finds here.",
        (
            "checkpoint=runs/…/model.safetensors output=exported",
            "checkpoint=runs/…/model.safetensors format=torch_export output=exported",
            "checkpoint=runs/…/model.safetensors precision=int8 data=coco data.root=DIR output=exported",
        ),
    ),
    "check-data": Command(
        "tasks.cli.check_data:check_data",
        "Finds what is wrong with a data set before training does; exit status 1 where anything is an error.",
        ("data.root=DIR", "data=voc data.root=DIR preprocessing.short_side=320"),
    ),
    "show-data": Command(
        "tasks.cli.show_data:show_data",
        "Shows what a network will see: a sheet of augmented images with boxes and masks, counts and sizes of "
        "objects.",
        (
            "task=detection data=coco data.root=DIR augmentation=strong",
            "task=instance_segmentation data=digits split=val num_images=9",
        ),
    ),
    "convert-data": Command(
        "tasks.cli.convert_data:convert_data",
        "Writes a data set with boxes in another format, images too, and says what that format cannot hold.",
        ("data.root=DIR to=coco out=NEW", "data=coco data.root=DIR to=yolo out=NEW"),
    ),
    "compare": Command(
        "tasks.cli.compare:compare",
        "Trained models of one data set side by side: whether one is better, with intervals on the same images, and "
        "what they cost. Seconds a model.",
        (
            "runs/a runs/b costs=false                  which is better; evaluations too",
            "runs=[runs/faster,runs/fcos]               folders of training runs",
            "runs/sweep-…/[0-9] json=costs.json         those of a sweep; runs= may be left out",
        ),
        words_are="runs",
    ),
    "card": Command(
        "tasks.cli.card:card",
        "Writes the model card of a trained model: README.md with metadata, classes, metrics and where it comes from.",
        (
            "runs/…/model.safetensors licence=Apache-2.0",
            "runs/… licence=MIT dataset='blood smears of BCCD' source=photos output=card",
        ),
        first_is="checkpoint",
    ),
    "push": Command(
        "tasks.cli.hub:push",
        "Uploads a model file with its card to the Hugging Face hub.",
        ("runs/…/model.safetensors repo=USER/NAME licence=Apache-2.0",),
        first_is="checkpoint",
    ),
    "pull": Command(
        "tasks.cli.hub:pull",
        "Downloads a model file from the Hugging Face hub, and refuses what is none of ours.",
        ("USER/NAME output=DIR",),
        first_is="repo",
    ),
    "report": Command(
        "tasks.cli.report:report",
        "Makes the report of a training anew: report.html, one page that opens offline, and report.json.",
        ("runs/detection-…", "runs/a runs/b pictures=0                   without the drawing of pictures"),
        words_are="runs",
    ),
    "explain": Command(
        "tasks.cli.explain:explain",
        "Says of each object of a picture which stage of the detector found or lost it: no anchor, no proposal, its "
        "score, its place, a better box, the limit.",
        ("checkpoint=runs/…/model.safetensors data=coco data.root=DIR image=photo.jpg",),
    ),
    "suspects": Command(
        "tasks.cli.suspects:suspects",
        "Lists the annotations that are most probably wrong: missing, spurious, of the wrong class, shifted.",
        (
            "checkpoint=runs/…/model.safetensors data=coco data.root=DIR",
            "checkpoint=F data=voc data.root=DIR split=train folds=5    by five models, none of which has learnt them",
        ),
    ),
    "next": Command(
        "tasks.cli.next_pictures:next_pictures",
        "Chooses which unlabelled pictures to label next, unsure and different ones, with the model's boxes as "
        "pre-labels.",
        (
            "runs/…/model.safetensors source=photos number=100",
            "F source=photos number=50 format=yolo labelled=train-photos output=round-2",
        ),
        first_is="checkpoint",
    ),
    "tune": Command(
        "tasks.cli.tune:tune",
        "Fits a threshold for each class and the calibration of scores on a split, and stores them in the model file.",
        (
            "checkpoint=runs/…/model.safetensors data=coco data.root=DIR",
            "checkpoint=F data=coco data.root=DIR goal=precision wanted=0.95 out=tuned.safetensors",
        ),
    ),
    "summarize": Command(
        "tasks.cli.summarize:summarize_networks",
        "What networks cost and give: parameters, multiply-adds, activation memory, feature maps. Seconds, no "
        "weights.",
        (
            "networks=[resnet50,vgg16]                  at 224 x 224; networks= may be left out: resnet50 vgg16",
            "resnet50 size=[224,800x1344] json=costs.json",
            "resnet50,output_stride=8 resnet50,pyramid=fpn timm,model=densenet121",
            "models=[faster_rcnn,gfl]                    whole models",
        ),
        words_are="networks",
        lists=("size",),
    ),
    "verify-weights": Command(
        "tasks.cli.verify_weights:verify",
        "Scores published weights on the data they were published for, and prints the published figure beside "
        "ours.",
        (
            "data=coco data.root=DIR            COCO val2017: the detectors and segmenters",
            "data=image_folder data.root=DIR    ImageNet's val folder: the ResNets",
            "data=coco data.root=DIR only=[faster_rcnn,mask_rcnn]",
        ),
    ),
    "residual-study": Command(
        "tasks.cli.residual_study:residual_study",
        "Deep plain networks learn worse than shallow ones, and shortcuts cure it: trains both, writes picture "
        "and JSON.",
        (
            "                                  on the embedded digits",
            "data=cifar10 data.file=cifar10_jpeg.npz steps=64000 run_dir=study",
            "networks=[plain_cifar_resnet20,plain_cifar_resnet110,cifar_resnet20,cifar_resnet110]",
        ),
    ),
}


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
    script = f"{name.replace('-', '_')}.py"
    _run(name, sys.argv[1:], f"python tools/{script}", [sys.argv[0]])


def _run(name: str, words: list[str], program: str, script: list[str]) -> None:
    """Composes the configuration of the command `name` with `words` and calls its function on it.

    A mistake of the user's ends in one sentence on standard error and exit status 2. `program` is what help
    calls the command, `script` what a Python interpreter runs for it.
    """
    command, config_name = COMMANDS[name], name.replace("-", "_")
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    warnings.formatwarning = one_line  # without the line of source that it came from
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
                found = sweep(
                    config_name, words, script, lambda config: _call(command, config), user_sentence
                )
            else:
                found = _call(command, compose(config_name, words))
        if output.json and _is_rank_zero():
            _say(lambda: output.text_of(found))
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


def one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as the command line prints it."""
    return f"warning: {message}\n"


def _call(command: Command, config: Any) -> Found:
    from tasks.cli.reading_bar import ReadingBar
    from tasks.data.progress import showing

    module, function = command.run.split(":")
    with showing(ReadingBar()):
        return getattr(__import__(module, fromlist=[function]), function)(config)


def _is_rank_zero() -> bool:
    """Whether this process is the only one of a run, or the first."""
    session = sys.modules.get("tasks.harness.session")  # of commands that train and evaluate
    return session is None or session.is_rank_zero()


def _say(text: Callable[[], str]) -> None:
    """Prints the text, be it to a pipe that closes early as in `--help | head`."""
    try:
        print(text(), flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # or Python would flush it once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def overview() -> str:
    """The commands with a sentence each."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items())
    return (
        f"vertebra COMMAND key=value …\n\n{lines}\n\n"
        "vertebra COMMAND --help lists what can be set.\n"
        "--config-dir DIR puts a folder of configuration files (DIR/experiment/mine.yaml, …) on top of those "
        "that come with it.\n"
        f"{ABOUT}\n"
        "--version prints the version."
    )


def usage(command: Command, program: str) -> str:
    """What the command does, and its examples as calls of `program`."""
    return "\n".join([command.about, "", *(f"{program} {example}" for example in command.examples)])


def help_text(config_name: str, usage: str) -> str:
    """What can be set: the usage, the groups with their choices, and the configuration file itself."""
    text = (CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8")
    listed = "defaults:" in text
    groups = "\n".join(f"  {group}={'|'.join(choices)}" for group, choices in config_groups().items())
    return (
        f"{usage.strip()}\n\n"
        + (f"Choices, each a file in configs/:\n{groups}\n\n" if listed else "")
        + (f"{backbones_text()}\n\n" if config_name in NETWORK_COMMANDS else "")
        + f"Settings (configs/{config_name}.yaml), given as key=value:\n\n{text}\n{settings_text(config_name)}\n"
        + (
            "Every argument of the objects that a configuration names can be set as well.\n"
            "--multirun runs every combination of values as in optimizer.lr=0.01,0.02 and prints one table.\n"
            "--config-dir DIR puts a folder of configuration files on top of these.\n"
            if listed
            else ""
        )
        + f"{ABOUT}\n--traceback shows where an error came from."
    )


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


def user_error(error: BaseException) -> BaseException | None:
    """The mistake of the user's behind `error`, or None when it is ours."""
    if isinstance(error, OSError):  # of a file that a setting names, or of a disk that takes no more
        return error if error.filename is not None or error.errno in OF_DISKS or error.errno is None else None
    if isinstance(error, ValueError) and not type(error).__module__.startswith("omegaconf"):
        return error
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0]
        if package in ("backbones", "tasks"):
            return None
        return ValueError(f"the package {package} is not installed; pip install 'vertebra[train]' brings it")
    from hydra.errors import HydraException
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, HydraException) and error.__cause__ is not None:
        return user_error(error.__cause__)
    if isinstance(error, HydraException | OmegaConfBaseException | MisconfigurationException):
        key, line = (
            getattr(error, "full_key", None),
            next(iter(str(error).splitlines()), type(error).__name__),
        )
        return ValueError(f"{key}: {line}" if key else line)
    return None


def user_sentence(error: BaseException) -> str | None:
    """What to tell the user of a mistake of theirs, or None for one of ours."""
    cause = user_error(error)
    return None if cause is None else visible(sentence(cause))


def visible(text: str) -> str:
    """`text` in one line, in which a name from outside can neither break the line nor steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def sentence(error: BaseException) -> str:
    """What the error says, without Python's number in front of what the system said."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    what = error.strerror[:1].lower() + error.strerror[1:]
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if not names and error.errno in OF_DISKS:  # while a file was written, of which Python says no name
        return (
            f"{what}; make room where the command writes (run_dir=, output= or out=), or name another place"
        )
    return f"{' and '.join(map(repr, names))}: {what}" if names else what
