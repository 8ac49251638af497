"""What networks cost and give: `vertebra summarize` of a checkout.

python tools/summarize.py networks=[resnet50,vgg16]
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, installed or not
    from tasks.cli.main import run_tool

    run_tool("summarize")
