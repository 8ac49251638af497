"""Published weights of whole models: address, digest, accuracy, the network they are of, and that network with them.

torchvision's files, trained on COCO's 80 classes; addresses and accuracies are those of its metadata. A download is
verified before use (`backbones/download.py`). The digests in full are published alike in several independent
repositories; of a file with none, the eight hex digits at the end of its name are all that is known and verified.
Published classifiers are tabled with the backbones (`backbones/weights.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.checks import suggest
from backbones.download import expected_digest, fetch, with_digest
from backbones.loading import read_weights
from backbones.weights import TORCHVISION
from tasks.contracts import Model
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import new_model
from tasks.zoo.registry import task_of, weights_loader


@dataclass(frozen=True)
class PublishedModel:
    """One file of weights of a whole model. Images are RGB, sized and normalised as `Preprocessing` does by default."""

    file: str
    metrics: Mapping[str, float]
    """Published accuracy on COCO's val2017, in 0 … 1, under the names that evaluation gives."""
    backbone: Mapping[str, Any]
    pyramid: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the model's builder that differ from its defaults."""
    digest: str = ""
    licence: str = "BSD-3-Clause"

    @property
    def url(self) -> str:
        return TORCHVISION + self.file

    @property
    def sha256(self) -> str:
        """The hex digits that the file's SHA-256 begins with: all 64 of them where they are known, else 8."""
        return self.digest or expected_digest(self.file)


_FROZEN = {
    "name": "resnet50",
    "norm": "frozen",
    "norm_eps": 0.0,
}  # torchvision leaves out the eps of its first weights
_V2 = {"rpn_convs": 2, "box_convs": 4, "box_linears": 1, "box_norm": "batch"}

# The last tag of a model is what pretrained=true takes.
PUBLISHED: dict[str, dict[str, PublishedModel]] = {
    "faster_rcnn": {
        "COCO_V1": PublishedModel(
            "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
            {"AP": 0.370},
            backbone=_FROZEN,
            pyramid={"name": "fpn"},
            digest="258fb6c638b15964ddcdd1ae0748c5eef1be9e732750120cc857feed3faac384",
        ),
        "COCO_V2": PublishedModel(
            "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
            {"AP": 0.467},
            backbone={"name": "resnet50", "norm": "frozen"},
            pyramid={"name": "fpn", "norm": "batch"},
            options=_V2,
            digest="dd69338a24b8d7381807e247652bdc356325bcbaf1cd3e092e00e0a1a58706bf",
        ),
    },
    "mask_rcnn": {
        "COCO_V1": PublishedModel(
            "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
            {"AP": 0.379, "mask_AP": 0.346},
            backbone=_FROZEN,
            pyramid={"name": "fpn"},
            digest="bf2d0c1efbc936eeee2bc95a48e80ebc86b891f61b0106485937fc29f9315fc0",
        ),
        "COCO_V2": PublishedModel(
            "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
            {"AP": 0.474, "mask_AP": 0.418},
            backbone={"name": "resnet50", "norm": "frozen"},
            pyramid={"name": "fpn", "norm": "batch"},
            options={**_V2, "mask_norm": "batch"},
            digest="73cbd0190fcbe3ba339921fbce2c3a0b6bb9126c9a133c85e43a2a8e060a109e",
        ),
    },
    "retinanet": {
        "COCO_V1": PublishedModel(
            "retinanet_resnet50_fpn_coco-eeacb38b.pth",
            {"AP": 0.364},
            backbone=_FROZEN,
            pyramid={"name": "fpn"},
        ),
        "COCO_V2": PublishedModel(
            "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth",
            {"AP": 0.415},
            backbone={"name": "resnet50", "norm": "frozen"},
            pyramid={"name": "fpn", "extra": "conv_c5"},
            options={"head_norm": "group", "box_loss": "giou"},
            digest="5905b1c544219215e544dbe319720397bc4e68de61a733a59350d7976645b769",
        ),
    },
    "fcos": {
        "COCO_V1": PublishedModel(
            "fcos_resnet50_fpn_coco-99b0c9b7.pth",
            {"AP": 0.392},
            backbone={"name": "resnet50", "norm": "frozen"},
            pyramid={"name": "fpn"},
            digest="99b0c9b7cfb1527d782db86b91d207f00547c792fb4103fc612b651d0a07b9e7",
        ),
    },
}


def find_published(name: str, pretrained: bool | str) -> PublishedModel:
    """The line of the table that `pretrained` means for the model called `name`: by its tag, True for the last, or
    as a file by its name.

    Raises:
        ValueError: there is none.
    """
    table = PUBLISHED.get(name, {})
    if not table:
        raise ValueError(
            f"pretrained={pretrained}: no weights are published for model={name}, only for {', '.join(PUBLISHED)}; "
            "take one of these, start from a file with init_from=, or give the backbone's with backbone.pretrained="
        )
    if pretrained is True:
        return list(table.values())[-1]
    for tag, entry in table.items():
        if str(pretrained) == tag or Path(str(pretrained)).name == entry.file:
            return entry
    known = ", ".join(f"{tag} ({entry.file})" for tag, entry in table.items())
    raise ValueError(
        f"pretrained={pretrained} is neither published weights of {name} nor the file of any; "
        f"{suggest(str(pretrained), table)} There are {known}"
    )


def starting_spec(spec: Mapping[str, Any], pretrained: bool | str) -> dict[str, Any]:
    """The network of the weights that `pretrained` means for the model of `spec`, but for what `spec` sets itself.

    Raises:
        ValueError: there are none, or not with this backbone and pyramid.
    """
    entry = find_published(spec["name"], pretrained)
    parts = {}
    for part in ("backbone", "pyramid"):
        published, asked = dict(getattr(entry, part)), dict(spec.get(part) or {})
        asked.pop("pretrained", None)
        if asked.get("name", published["name"]) != published["name"]:
            raise ValueError(
                f"pretrained={pretrained}: these weights of {spec['name']} are on the {part} {published['name']}, not "
                f"{asked['name']}; give {part}={published['name']}, or start from a backbone alone with "
                "backbone.pretrained=true"
            )
        parts[part] = {**published, **asked}
    return {**entry.options, **spec, **parts}


def fetch_published(name: str, pretrained: bool | str) -> Path:
    """The file of the weights that `pretrained` means for the model called `name`, downloaded where it is not there.

    Raises:
        ValueError: there are none, or they cannot be had.
    """
    entry, path = find_published(name, pretrained), Path(str(pretrained))
    return path if path.is_file() and path.name == entry.file else fetch(with_digest(entry.url, entry.sha256))


def published_model(
    spec: Mapping[str, Any],
    pretrained: bool | str,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
) -> Model:
    """The model of `spec` with the published weights that `pretrained` means, in evaluation mode, with its header.

    Args:
        spec: as for `registry.build_model`; what it leaves out is as the weights need it.
        pretrained: a tag of `PUBLISHED`, True for the last, or the path of one of the files.
        preprocessing: None for that of the published accuracy.
        class_names: those to know, in this order, all of COCO's; None for all 80.

    Raises:
        ValueError: no such weights, not of this network, or not of these classes; a download that failed says which
            file to put where.
    """
    entry = find_published(spec["name"], pretrained)
    spec = starting_spec(spec, pretrained)
    coco = coco_classes()
    names = list(coco) if class_names is None else list(class_names)
    if unknown := [name for name in names if name not in coco]:
        raise ValueError(
            f"the weights pretrained={pretrained} know COCO's 80 classes, of which {unknown[0]!r} is none; rename the "
            "data's categories as COCO does, or train on this data from these weights"
        )
    preprocessing = preprocessing or Preprocessing()
    file = fetch_published(spec["name"], pretrained)
    category_ids = [coco[name] for name in names]
    model = new_model(
        task_of(spec["name"]),
        spec,
        names,
        category_ids,
        preprocessing,
        provenance={
            "pretrained": entry.file,
            "licence": entry.licence,
            "data": "COCO train2017",
            "published": dict(entry.metrics),
        },
    )
    weights_loader(spec["name"])(model, read_weights(file), category_ids=category_ids)
    return model.eval()


def coco_classes() -> dict[str, int]:
    """COCO's own id of each of its 80 classes, by name."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    categories = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {name: i for i, name in enumerate(categories) if name not in ("__background__", "N/A")}
