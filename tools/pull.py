"""A model file from the Hugging Face hub: `vertebra pull` of a checkout.

python tools/pull.py USER/NAME output=DIR
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("pull")
