"""Thresholds and calibration of a model, stored in its file: `vertebra tune` of a checkout.

python tools/tune.py checkpoint=runs/…/model.safetensors data=coco data.root=DIR
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("tune")
