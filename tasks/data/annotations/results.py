"""An object that a model has found, as COCO's format of results has it."""

from collections.abc import Mapping
from typing import Any


def to_result(item: Mapping[str, Any], image_id: int, category_id: int) -> dict[str, Any]:
    """An object of a prediction (`Objects.to_dict`) as a result; its box is xywh, unrounded."""
    x1, y1, x2, y2 = item["box"]
    result = {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": item["score"],
    }
    return {**result, "segmentation": item["segmentation"]} if "segmentation" in item else result
