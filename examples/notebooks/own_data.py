# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---
# %% [markdown]
# # A detector of your own in ten cells
# Open this file in Jupyter with jupytext, in VS Code or PyCharm as cells, or run it: `python own_data.py FOLDER`.

# %% Where the pictures and labels are
import sys
from pathlib import Path

import tasks
from tasks.data.quality.report import examine

folder = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "DIR")
data = tasks.data.open(folder)

# %% What there is
train, val = data.split("train"), data.split("val")
print(data.layout)
print(len(train), "images to train,", len(val), "to validate;", ", ".join(data.class_names))

# %% What is wrong with it
for finding in examine(data, tasks.TrainSettings().preprocessing).findings:
    print(finding.issue.severity, finding)

# %% One picture with its objects, drawn
from tasks.visualization.boxes import write_picture
from tasks.visualization.truth import draw_truth

write_picture(Path("first.jpg"), draw_truth(train.image(0), train.annotations, 0))

# %% Train; every choice that is not said follows from the data (docs/defaults.md)
run = tasks.train("detection", data, settings={"pretrained": False}, folder="runs/notebook")

# %% How good it is, and how sure
print(run.numbers["AP"], run.numbers["AP50"])

# %% The report of the run: open it in a browser
print(run.folder / "report.html")

# %% What it finds in one picture
predictor = tasks.load_predictor(run.model_file)
found = predictor(val.image(0))
print(found.summary())

# %% The same, as arrays
print(found.boxes, found.scores, found.class_names)
