"""The model card of a trained model: `vertebra card` of a checkout.

python tools/card.py runs/… licence=Apache-2.0
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("card")
