"""Writes a trained model for other programs: `vertebra export` of a checkout.

python tools/export.py checkpoint=runs/…/model.safetensors output=exported
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("export")
