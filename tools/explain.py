"""Which stage of a detector found or lost each object of a picture: `vertebra explain` of a checkout.

python tools/explain.py checkpoint=runs/…/model.safetensors image=photo.jpg data=coco data.root=DIR
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("explain")
