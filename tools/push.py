"""A model file to the Hugging Face hub: `vertebra push` of a checkout.

python tools/push.py runs/… repo=USER/NAME licence=Apache-2.0
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("push")
