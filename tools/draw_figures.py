"""Draws the plots of the documentation anew, from the figures that stand in it: `python tools/draw_figures.py`.

docs/images/residual_study.png  from docs/residual_study.json
docs/images/speed_and_ap.png    from the tables of docs/results.md and the published AP of the weights
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tasks.studies.residual_study import draw
from tasks.visualization.plot_style import BLUE, ORANGE, SOFT, figure
from tasks.zoo.pretrained import PUBLISHED

DOCS = Path(__file__).parents[1] / "docs"
NAMES = {"faster_rcnn": "Faster R-CNN", "retinanet": "RetinaNet", "fcos": "FCOS", "mask_rcnn": "Mask R-CNN"}
BATCH = 8
ROW = re.compile(
    r"^\| (train-step|infer) (\w+)_r50_fpn, 800x1344, batch (\d+) \| ([\d.]+) ms \| ([\d.]+) ms \|",
    re.MULTILINE,
)
WHAT = {"infer": "Predicting", "train-step": "Training"}
TICKS = {"infer": [3, 10, 30, 100, 400], "train-step": [50, 70, 100, 160]}


@dataclass(frozen=True)
class Speed:
    """Images a second of one detector at one work, on a GPU."""

    work: str
    model: str
    ours: float
    theirs: float
    """Of torchvision in its best setting."""
    ap: float
    """In percent, on COCO val2017, of the weights that torchvision publishes for this network."""


def speeds(results: str) -> list[Speed]:
    """Those in the table of docs/results.md, at the batch of the figure."""
    return [
        Speed(
            work, model, 1000 * BATCH / float(ours), 1000 * BATCH / float(theirs),
            100 * PUBLISHED[model]["COCO_V1"].metrics["AP"],
        )
        for work, model, batch, ours, theirs in ROW.findall(results)
        if int(batch) == BATCH
    ]  # fmt: skip


def draw_speeds(found: list[Speed], path: Path) -> None:
    """AP against images a second, one picture for predicting and one for training."""
    looks = {
        "marker": "o",
        "color": ORANGE,
        "markerfacecolor": "white",
        "markeredgewidth": 2.5,
        "linestyle": "",
    }
    with figure(path, 13, 5.2) as drawn:
        both = drawn.subplots(1, 2, sharey=True)
        for axes, (work, title) in zip(both, WHAT.items(), strict=True):
            for speed in (speed for speed in found if speed.work == work):
                axes.plot([speed.theirs, speed.ours], [speed.ap] * 2, color=SOFT, linewidth=1.5, zorder=1)
                axes.plot(speed.theirs, speed.ap, **looks)
                axes.plot(speed.ours, speed.ap, "s", color=BLUE)
                place = {"xytext": (0, 11), "textcoords": "offset points", "ha": "center"}
                middle = (speed.theirs * speed.ours) ** 0.5
                axes.annotate(NAMES[speed.model], (middle, speed.ap), **place)
            ticks = TICKS[work]
            axes.set_xscale("log")
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.set(title=title, xlabel="images a second", xlim=(0.8 * ticks[0], 1.4 * ticks[-1]))
        both[0].set(ylabel="AP on COCO val2017, %", ylim=(35.8, 40))
        both[0].plot([], [], "s", color=BLUE, label="Vertebra")
        both[0].plot([], [], **looks, label="torchvision, best setting")
        both[0].legend(loc="upper left")


if __name__ == "__main__":
    study = json.loads((DOCS / "residual_study.json").read_text())
    draw(study["networks"], DOCS / "images" / "residual_study.png")
    draw_speeds(speeds((DOCS / "results.md").read_text()), DOCS / "images" / "speed_and_ap.png")
