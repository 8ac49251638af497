"""Scores published weights on the data they were published for, and prints the published figure beside ours.

python tools/verify_weights.py data=coco data.root=DIR            # COCO val2017: the detectors and segmenters
python tools/verify_weights.py data=image_folder data.root=DIR    # ImageNet's val folder: the ResNets
python tools/verify_weights.py data=coco data.root=DIR only=[faster_rcnn,mask_rcnn]
"""

from tasks.cli.main import run_tool

if __name__ == "__main__":
    run_tool("verify_weights", "tasks.cli.verify_weights:verify", __doc__ or "")
