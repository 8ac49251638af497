"""Shows what a network will see of a data set: `vertebra show-data` of a checkout.

python tools/show_data.py task=detection data=coco data.root=DIR augmentation=strong
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("show-data")
