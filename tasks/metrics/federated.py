"""LVIS's numbers: average precision where few classes are annotated on each image (Gupta et al., 2019).

A detection counts on an image only where its class is annotated there, or known to be absent; one that matches nothing
is no mistake where the class is not annotated exhaustively. hotcoco computes them.
"""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large",
    "APr": "AP_rare", "APc": "AP_common", "APf": "AP_frequent", "AR@300": "AR_300", "ARs@300": "AR_small",
    "ARm@300": "AR_medium", "ARl@300": "AR_large",
}  # fmt: skip
"""What hotcoco and LVIS's own code call them, and what they are called here."""


def federated_numbers(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, masks: bool = False
) -> dict[str, float]:
    """The thirteen numbers of LVIS, then `AP/<class name>`; nan where no object counts.

    Args:
        truth: annotations as in LVIS's files, images with `neg_category_ids` and `not_exhaustive_category_ids`.
        results: detections in COCO's format of results, at most 300 of which count on an image.
        masks: score masks and not boxes.

    Raises:
        ValueError: hotcoco is not installed.
    """
    try:
        import hotcoco
    except ModuleNotFoundError:
        raise ValueError("LVIS's rules need hotcoco, which is not installed: pip install hotcoco") from None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its table
        objects = hotcoco.COCO(dict(truth))
        kind = "segm" if masks else "bbox"
        evaluation = hotcoco.COCOeval(
            objects, objects.load_res([dict(result) for result in results]), kind, lvis_style=True
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        found = evaluation.get_results(per_class=True)
    by_class = {
        f"AP/{category['name']}": found.get(f"AP/{category['name']}") for category in truth["categories"]
    }
    numbers = {ours: found.get(theirs) for theirs, ours in NAMES.items()}
    return {
        name: math.nan if value is None or value < 0 else float(value)
        for name, value in {**numbers, **by_class}.items()
    }
