"""Our code beside torchvision's and pycocotools': same weights, one process, results compared before any time.

python tools/benchmark.py train-step model=mask_rcnn_r50_fpn precision=fp32,bf16
python tools/benchmark.py train-step model=resnet50 size=224x224 batch=8
python tools/benchmark.py relatives model=gfl_r50_fpn                       beside FCOS; cascade_rcnn_r50_fpn
python tools/benchmark.py shares model=retinanet_r50_fpn                    percent of a step by operator
python tools/benchmark.py infer model=mask_rcnn_r50_fpn dets=100
python tools/benchmark.py exported model=retinanet_r50_fpn size=480x640     the predictor, ONNX Runtime, OpenVINO
python tools/benchmark.py roi-align rois=1024
python tools/benchmark.py masks dets=100 size=480x640,800x1344
python tools/benchmark.py assign gts=7,20,100
python tools/benchmark.py counts model=mask_rcnn_r50_fpn batch=2,8          syncs, operator calls, saved bytes
python tools/benchmark.py eval images=5000 dets=100 type=bbox,segm
python tools/benchmark.py loader workers=2                                  images a second, processes and threads
python tools/benchmark.py annotations workers=2 epochs=2                    memory of 860,001 objects
python tools/benchmark.py end-to-end model=faster_rcnn_r50_fpn root=DIR workers=2     from COCO's files to weights
python tools/benchmark.py startup
python tools/benchmark.py trainer-overhead steps=2000

Each prints one JSON line for each setting: times in ms, and how many times faster we are (`ratio`, of medians;
`ratio_of_minimums` beside it). With min_ratio=R a ratio below it is exit status 1; so is a failed comparison.
`--key value` is read as `key=value`, too.
"""

from __future__ import annotations

import argparse
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

BENCHMARKS = {  # the command and the file of tools/benchmarks that measures it
    "train-step": "training",
    "relatives": "relatives",
    "shares": "shares",
    "infer": "inference",
    "exported": "exported",
    "roi-align": "operators",
    "masks": "operators",
    "assign": "operators",
    "counts": "counting",
    "eval": "evaluation",
    "loader": "loader",
    "annotations": "annotations",
    "end-to-end": "end_to_end",
    "startup": "overhead",
    "trainer-overhead": "overhead",
}


def main() -> None:
    """The command line."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    parser = command_line()
    arguments, unknown = parser.parse_known_args(list(map(as_option, sys.argv[1:])))
    if unknown:
        key = unknown[0].lstrip("-").partition("=")[0].replace("-", "_")
        near = get_close_matches(key, vars(arguments), n=1)
        parser.error(f"unknown setting {key!r}" + "".join(f"; did you mean {name}" for name in near))
    module = import_module(f"benchmarks.{BENCHMARKS[arguments.benchmark]}")
    slow = False
    for result in getattr(module, arguments.benchmark.replace("-", "_"))(arguments):
        print(result.line(), flush=True)
        slow |= any(ratio < arguments.min_ratio for ratio in result.ratios().values())
    sys.exit(slow)


def as_option(word: str) -> str:
    """`key=value` as argparse reads it: `--key=value`, or `--key` for what is true."""
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier():
        return word
    option = f"--{key.replace('_', '-')}"
    return option if value == "true" else f"{option}={value}"


def command_line() -> argparse.ArgumentParser:
    """Words of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")

    def command(name: str, text: str, *options: str, repeats: int = 5, size: str = "800x1344") -> None:
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for option in options:
            one.add_argument(f"--{option}", **OPTIONS[option])
        one.add_argument("--repeats", type=int, default=repeats, help="times that each variant runs")
        one.add_argument("--min-ratio", type=float, default=0.0, help="exit with 1 below this ratio")
        if "size" in options:
            one.set_defaults(size=parse_sizes(size))

    models = ("model", "size", "batch", "instances", "precision", "device", "compile")
    command("train-step", "a training step: losses, gradients, optimiser", *models)
    command("relatives", "a training step beside that of the detector it is made of", *models[:6])
    commands.choices["relatives"].set_defaults(model="gfl_r50_fpn")
    command("shares", "where the time of a training step goes", *models)
    command("infer", "images to detections, masks as run lengths", *models, "dets")
    command("exported", "one picture by our predictor, torchvision, ONNX Runtime and OpenVINO", *models[:2])
    command("roi-align", "features of boxes, forward and backward", "rois", "precision", "device", "size")
    command("masks", "probabilities in boxes to run lengths", "dets", "size", repeats=9)
    command("assign", "overlaps and matching of anchors", "gts", "size", "device", repeats=9)
    command("counts", "synchronisations, operator calls, saved bytes: exact", *models[:5])
    command("eval", "COCO's numbers of a data set", "images", "dets", "type", "against", repeats=1)
    command("loader", "images a second, with worker processes and with threads", "images", "batch", "workers")
    commands.choices["loader"].set_defaults(images=256, batch=[8], workers=2)
    command("annotations", "memory of the annotations of a large data set", "images", "objects", "workers",
            "epochs", "alone", "max-gb")  # fmt: skip
    commands.choices["annotations"].set_defaults(images=118_287, workers=2)
    command("end-to-end", "training epochs from image files to weights", "model", "batch", "precision", "device",
            "images", "root", "workers", repeats=3)  # fmt: skip
    commands.choices["end-to-end"].set_defaults(images=16, batch=[2], model="faster_rcnn_r50_fpn")
    command("startup", "--help of the tools beside importing what they need")
    command("trainer-overhead", "a step of the Trainer beside a plain loop", "steps", repeats=3)
    return parser


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """(height, width) of each of "480x640,800x1344"."""
    try:
        return [(int(h), int(w)) for h, w in (size.split("x") for size in text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give height x width as 800x1344") from None


def numbers(text: str) -> list[int]:
    """The whole numbers of "2,8,16"."""
    return [int(number) for number in text.split(",")]


def words(text: str) -> list[str]:
    """The words of "fp32,bf16"."""
    return text.split(",")


OPTIONS = {
    "model": {"default": "mask_rcnn_r50_fpn", "help": "a network of tools/benchmarks/pairs.py"},
    "size": {"type": parse_sizes, "help": "height x width of the images"},
    "batch": {"type": numbers, "default": [1], "help": "images, as 2,8,16"},
    "instances": {"type": int, "default": 20, "help": "objects of each image"},
    "precision": {"type": words, "default": ["bf16"], "help": "fp32, bf16, or both"},
    "device": {"default": "cpu", "choices": ["cpu", "cuda"]},
    "compile": {"action": "store_true", "help": "torch.compile both backbones"},
    "dets": {"type": int, "default": 100, "help": "detections of each image"},
    "rois": {"type": int, "default": 1024, "help": "boxes in all"},
    "gts": {"type": numbers, "default": [7, 20, 100], "help": "objects of the image"},
    "images": {"type": int, "default": 5000},
    "type": {"type": words, "default": ["bbox", "segm"], "help": "bbox, segm, or both"},
    "against": {"type": words, "default": ["pycocotools"], "help": "pycocotools, faster_coco_eval, or both"},
    "root": {"help": "COCO's folder, with train2017; without it pictures are made up"},
    "workers": {"type": int, "default": 0, "help": "processes or threads that load"},
    "objects": {"type": int, "default": 860_001, "help": "boxes of all images"},
    "epochs": {"type": int, "default": 2, "help": "times that every image's objects are read"},
    "alone": {"action": "store_true", "help": "leave out the other, which takes 6 GB"},
    "max-gb": {"type": float, "help": "exit with 1 above it, or where memory grows"},
    "steps": {"type": int, "default": 2000},
}

if __name__ == "__main__":
    main()
