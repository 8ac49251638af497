"""Scores a model file or checkpoint as COCO does, and writes its detections in COCO's result format.

python tools/evaluate.py checkpoint=runs/…/model.safetensors
python tools/evaluate.py checkpoint=runs/…/model.safetensors data=coco data.root=DIR
"""

from tasks.harness.cli import run_tool

if __name__ == "__main__":
    run_tool("evaluate", "tasks.harness.evaluation:evaluate", __doc__ or "")
