"""The report of a training, made anew: `vertebra report` of a checkout.

python tools/report.py runs/faster
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("report")
