"""Writes a data set with boxes in another format, images too, and says what that format cannot hold.

python tools/convert_data.py data=voc data.root=DIR to=coco out=NEW
python tools/convert_data.py data=coco data.root=DIR to=yolo out=NEW
"""

from tasks.cli.main import run_tool

if __name__ == "__main__":
    run_tool("convert_data", "tasks.cli.convert_data:convert_data", __doc__ or "")
