"""Does `vertebra next` choose better pictures than chance? One round of labelling on the embedded scenes.

python tools/benchmarks/labelling_rounds.py --folder rounds --seeds 0 1 2

A detector that has learnt from 60 labelled scenes chooses 60 of 540 more; it then goes on with all 120. Beside it go 60
drawn at random, and as many at random as hold the objects of the chosen ones, since a person pays by the box as well.
All start from one small classifier of single digits, which is trained first, take the same steps, and are scored on 100
scenes of other handwriting. A line for each training; what is in the folder already is not trained again.
"""

import argparse
import json
import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's code, installed or not

import tasks
from tasks.data.parts import Parts
from tasks.inference.predictor import Predictor
from tasks.inference.selection import choose
from tasks.inference.survey import Surveyor

NUM_LABELLED, NUM_CHOSEN, NUM_SCENES, NUM_SCORED = 60, 60, 600, 100
BACKBONE = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [32, 64, 128, 256]}
DETECTOR = {
    "name": "faster_rcnn", "anchor_sizes": [16, 24, 36, 48, 64], "rpn_pre_nms_train": 150, "rpn_post_nms_train": 100,
    "rpn_pre_nms_test": 150, "rpn_post_nms_test": 60, "box_samples": 96, "box_representation_size": 512,
}  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    start = classifier(arguments.folder / "classifier")
    for seed in arguments.seeds:
        one_round(arguments.folder, start, seed, arguments.steps)


def classifier(folder: Path) -> Path:
    """Of single digits, from whose backbone all detectors start."""
    file = folder / "model.safetensors"
    if not file.is_file():
        settings = {
            "norm": "batch", "precision": "bf16-mixed", "trainer.max_steps": 400, "optimizer.lr": 0.005,
            "trainer.accelerator": "cpu", "trainer.val_check_interval": "max_steps", "loader.num_workers": 0,
            "trainer.check_val_every_n_epoch": None,
        }  # fmt: skip
        data = tasks.data.open("single_digits", num_train=4000)
        run = tasks.train("classification", data, backbone=BACKBONE, settings=settings, folder=folder)
        print(json.dumps({"classifier": round(run.numbers["top1"], 4)}), flush=True)
    return file


def one_round(folder: Path, start: Path, seed: int, steps: int) -> None:
    """Four trainings, a line of each."""
    scenes = tasks.data.open(
        "digits", num_train=NUM_SCENES, num_val=NUM_SCORED, num_test=1, size=128, seed=seed
    )
    split = scenes.split("train")
    counts = np.diff(split.annotations.offsets)

    def learn(name: str, rows: np.ndarray, init_from: Path) -> Path:
        place = folder / f"{name}-{seed}"
        if not (place / "metrics.json").is_file():
            data = Parts(scenes, {"train": ("train", rows), "val": ("val", np.arange(NUM_SCORED))})
            recipe = tasks.recipe_settings("detection", scenes)
            trainer = replace(recipe.trainer, max_steps=steps, accelerator="cpu")
            loader = replace(recipe.loader, batch_size=4, num_workers=0)
            settings = replace(
                recipe,
                trainer=trainer,
                loader=loader,
                init_from=str(init_from),
                seed=seed,
                precision="bf16-mixed",
            )
            pyramid = {"name": "fpn", "channels": 96}
            tasks.train(
                "detection",
                data,
                model=DETECTOR,
                backbone=BACKBONE,
                pyramid=pyramid,
                settings=settings,
                folder=place,
            )
        numbers = json.loads((place / "metrics.json").read_text(encoding="utf-8"))
        line = {"seed": seed, "labels": name, "pictures": len(rows), "objects": int(counts[rows].sum())}
        print(json.dumps({**line, **{key: round(numbers[key], 4) for key in ("AP", "AP50")}}), flush=True)
        return place / "model.safetensors"

    labelled, pool = np.arange(NUM_LABELLED), np.arange(NUM_LABELLED, NUM_SCENES)
    first = learn("first", labelled, start)
    with Surveyor.open(Predictor.load(first, device="cpu")) as look:
        seen = look([split.image(i) for i in range(NUM_SCENES)])
    unsure, features = np.array([s.uncertainty for s in seen]), np.stack([s.feature for s in seen])
    chosen = pool[choose(unsure[pool], features[pool], NUM_CHOSEN, features[labelled])]
    drawn = np.random.default_rng(seed).permutation(pool)
    as_many = int(np.searchsorted(np.cumsum(counts[drawn]), counts[chosen].sum())) + 1
    for name, rows in (
        ("next", chosen),
        ("random", drawn[:NUM_CHOSEN]),
        ("random-as-many-objects", drawn[:as_many]),
    ):
        learn(name, np.concatenate([labelled, rows]), first)


if __name__ == "__main__":
    main()
