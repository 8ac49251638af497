"""Writes pictures with what a model finds in them: `vertebra predict` of a checkout.

python tools/predict.py checkpoint=runs/…/model.safetensors source=photo.jpg
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("predict")
