"""Trains a model.

python tools/train.py task=detection                              on the embedded digits
python tools/train.py task=detection data=coco data.root=DIR      on your own data
"""

from tasks.cli.main import run_tool

if __name__ == "__main__":
    run_tool("train", "tasks.harness.train:train", __doc__ or "")
