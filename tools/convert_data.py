"""Writes a data set in another format: `vertebra convert-data` of a checkout.

python tools/convert_data.py data=voc data.root=DIR to=coco out=NEW
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("convert-data")
