"""Finds what is wrong with a data set before training does; exit status 1 where anything is an error.

python tools/check_data.py data=coco data.root=DIR
python tools/check_data.py data=voc data.root=DIR preprocessing.short_side=320
"""

from tasks.cli.main import run_tool

if __name__ == "__main__":
    run_tool("check_data", "tasks.cli.check_data:check_data", __doc__ or "")
