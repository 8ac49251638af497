"""The commands of `vertebra`: what each does, how it is called, and help. Importing this costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.cli.folders import CONFIGS, config_groups
from tasks.cli.groups import NETWORK_COMMANDS, backbones_text, settings_text
from tasks.cli.output import ABOUT


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
