"""Shows what a network will see: a sheet of augmented images with boxes and masks, counts and sizes of objects.

python tools/show_data.py task=detection data=coco data.root=DIR augmentation=strong
python tools/show_data.py task=instance_segmentation data=digits split=val num_images=9
"""

from tasks.cli.main import run_tool

if __name__ == "__main__":
    run_tool("show_data", "tasks.cli.show_data:show_data", __doc__ or "")
