"""Scores a model file or checkpoint as COCO does, and writes its detections in COCO's result format.

python tools/evaluate.py checkpoint=runs/…/model.safetensors
python tools/evaluate.py checkpoint=runs/…/model.safetensors data=coco data.root=DIR
"""

from tasks.cli.main import run_tool

if __name__ == "__main__":
    run_tool("evaluate", "tasks.harness.evaluate:evaluate", __doc__ or "")
