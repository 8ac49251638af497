"""Trains a model: `vertebra train` of a checkout.

python tools/train.py task=detection                              on the embedded digits
python tools/train.py task=detection data=coco data.root=DIR      on your own data
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("train")
