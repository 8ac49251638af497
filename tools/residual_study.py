"""What shortcuts are for: `vertebra residual-study` of a checkout.

python tools/residual_study.py data=cifar10 data.file=cifar10_jpeg.npz steps=64000 run_dir=study
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("residual-study")
