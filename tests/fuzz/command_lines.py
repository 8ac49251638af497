"""Command lines with something wrong in them; a command ends with an exit status and one sentence, or does its work.

Nothing here asks for what would be right to do: more memory or processes, weights from the network, code by
`allow_code`, files of this machine.
"""

import json
import random
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.commands import command

STATUSES = (0, 1, 2)
SMALL = [
    "data=single_digits", "data.num_train=8", "data.num_val=4", "data.num_test=1", "loader.batch_size=4",
    "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "precision=32-true",
]  # fmt: skip
NETWORK = ["backbone=resnet", "backbone.block=basic", "backbone.blocks=[1,1]", "backbone.widths=[4,8]"]
COCO = ["data=coco", "data.root=coco"]
LINES: dict[str, list[str]] = {
    "train": ["task=classification", *NETWORK, *SMALL, "run_dir=run"],
    "evaluate": ["checkpoint=model.safetensors", *SMALL, "run_dir=scores"],
    "predict": ["checkpoint=model.safetensors", "source=a.png", "output=out", "device=cpu", "precision=32-true"],
    "check_data": [*COCO, "run_dir=checked"],
    "convert_data": [*COCO, "to=yolo", "out=yolo"],
    "show_data": ["task=detection", *COCO, "num_images=2", "run_dir=shown"],
    "summarize": ["networks=[resnet18]", "size=[64]"],
    "compare": ["runs=[nothing]"],
}  # fmt: skip
OFTEN = ["check_data", "convert_data", "predict", "evaluate", "train", *LINES]
VALUES = (
    "", "null", "~", "nan", "inf", "-1", "0", "0.5", "1e400", "-1e400", "x", "é", "😀", "a b", "a,b", "a=b", "[",
    "]", "{", "[1,2]", "[[]]", "{a:1}", "{}", "[]", "${x}", "${oc.env:HOME}", "${now:}", "${", "'", '"', "\\",
    "'a", "?", "???", "false", "../x", "nowhere/at/all", "/nowhere/at/all", "a\tb", "a\nb", "9" * 400,
    "-" + "9" * 400, "x" * 300, "(", "$(x)", "`x`", "%s", "{0}", "[/]", "[red]", "<b>", "_target_",
    "{_target_: os.system, command: 'echo ran'}", "1_000", "0x10", "٣", "+1", "1e-3x", "[null]", "[a,[b]]",
    "!x", "#x", "*", "&a", "@x", "tasks.train", "a.png", "coco", "model.safetensors", "a\u202eb",
)  # fmt: skip
KEYS = (
    "x", "data", "data.x", "data._target_", "model._target_", "trainer.x.y", "optimizer", "optimizer.lr",
    "schedule.x", "loader", "loader.sampling", "trainer", "trainer.devices", "trainer.strategy",
    "trainer.max_time", "seed", "resume", "init_from", "checkpoint", "hydra.run.dir", "hydra.x", "hydra", "+x",
    "++x.y", "~data", "~x", "", ".", "..", "a..b", "a.", ".a", "recipe", "experiment", "augmentation", "norm",
    "early_stopping", "ema", "preprocessing", "preprocessing.mean", "preprocessing.short_side", "task",
    "task.mixup", "model", "backbone.norm", "score_threshold", "tile", "scales", "split", "crowd", "to", "out",
    "source", "output", "run_dir", "data.on_invalid", "data.check_images", "data.value_range",
    "data.train_annotations", "data.val_images", "data.max_images", "metric.backend", "logger",
    "checkpointing.every_steps", "é", "[", "data[0]", "data.{a}", "--x", "--", "-", "-x", "--help=x", "@x",
    "a@b",
)  # fmt: skip


class Input(NamedTuple):
    """A command and its words."""

    name: str
    command: str
    words: list[str]


def make(rng: random.Random) -> Input:
    """A command line with one to three words wrong."""
    name = rng.choice(OFTEN)
    words = list(LINES[name])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spoil(words, rng)
    words = [word for word in words if not asks_for_elsewhere(word)]
    return Input(f"{name} {words}", name, words)


def asks_for_elsewhere(word: str) -> bool:
    """Whether it names a folder to write to outside of this one, which is nobody's mistake."""
    key, _, value = word.partition("=")
    return key in ("run_dir", "out", "output") and value.startswith(("/", "..", "~"))


def spoil(words: list[str], rng: random.Random) -> None:
    """Changes one word, but for those that keep a run of seconds from minutes."""
    places = [place for place, word in enumerate(words) if not word.startswith("data.num_")]
    place = rng.choice(places) if places else 0
    kind = rng.randrange(8)
    if kind == 0 and words:
        del words[place]
    elif kind == 1 and words:
        words.append(words[place])
    elif kind in (2, 3) and words:
        words[place] = f"{words[place].partition('=')[0]}={rng.choice(VALUES)}"
    elif kind == 4 and words:
        key, equals, value = words[place].partition("=")
        at = rng.randrange(len(key) or 1)
        words[place] = key[:at] + key[at + 1 :] + equals + value  # a letter is missing
    elif kind == 5:
        words.insert(place, rng.choice(VALUES))
    else:
        words.insert(place, f"{rng.choice(KEYS)}={rng.choice(VALUES)}")


def prepare(folder: Path, model: bytes) -> None:
    """The files that the genuine lines name."""
    (folder / "model.safetensors").write_bytes(model)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "coco" / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / "coco" / f"{split}2017").mkdir()
        Image.fromarray(pixels if split == "val" else 255 - pixels).save(
            folder / "coco" / f"{split}2017" / f"{split}.png"
        )
        (folder / "coco" / "annotations" / f"instances_{split}2017.json").write_text(annotations(split))


@cache
def annotations(split: str) -> str:
    """COCO's JSON of one image with one object."""
    box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": f"{split}.png", "height": 32, "width": 40}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **box}],
            "categories": [{"id": 1, "name": "cat"}],
        }
    )


def check(given: Input, folder: Path) -> str:
    """What the command did wrong; "" for nothing."""
    result = command(given.command, *given.words, cwd=folder)
    if result.returncode not in STATUSES:
        return f"exit status {result.returncode}"
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    if result.returncode == 2:
        if len(said) != 1 or result.stderr.splitlines()[-2:] != [
            said[0],
            "(--traceback shows where this came from)",
        ]:
            return f"not one sentence: {result.stderr[-400:]!r}"
        if len(said[0]) > 3000:
            return f"a sentence of {len(said[0])} characters"
    if "Traceback" in result.stderr + result.stdout:
        return "a traceback"
    return ""
