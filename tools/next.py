"""Which unlabelled pictures to label next, with pre-labels: `vertebra next` of a checkout.

python tools/next.py checkpoint=runs/…/model.safetensors source=photos number=100
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("next")
