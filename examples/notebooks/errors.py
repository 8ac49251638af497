# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---
# %% [markdown]
# # Where a detector fails
# What the report of a run says, as numbers: `python errors.py RUN`. `RUN/report.html` shows the same with pictures.

# %%
import json
import sys
from pathlib import Path

run = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "runs/first")
report = json.loads((run / "report.json").read_text())
sections = report["sections"]

# %% The numbers, and how sure they are
for name in ("AP", "AP50", "AP75"):
    low, high = report["intervals"].get(name) or (float("nan"), float("nan"))
    print(f"{name} {report['numbers'][name]:.3f} [{low:.3f}, {high:.3f}]")

# %% What each kind of error costs in AP at IoU 0.5 (Bolya et al., 2020): mend the dearest first
errors = sections["What goes wrong"]
for kind, cost in sorted(errors["costs"].items(), key=lambda item: -item[1]):
    print(f"{kind:16} costs {cost:.3f}, {errors['counts'].get(kind, '')}")

# %% Which threshold to use
print(sections["Which threshold to use"]["best_f1"])

# %% The pictures that cost most
for picture in sections["The worst pictures"]["images"][:5]:
    print(picture)
