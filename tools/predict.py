"""Writes pictures with what a model finds in them, and one JSON of all of it.

python tools/predict.py checkpoint=runs/…/model.safetensors source=photo.jpg
python tools/predict.py checkpoint=runs/…/model.safetensors source='photos/*.png' score_threshold=0.3
"""

from tasks.cli.main import run_tool

if __name__ == "__main__":
    run_tool("predict", "tasks.inference.folder:predict", __doc__ or "")
