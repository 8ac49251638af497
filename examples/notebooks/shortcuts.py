# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---
# %% [markdown]
# # What shortcuts do
# The same stages, deep and shallow, with and without shortcuts, on the embedded digits: `python shortcuts.py [STEPS]`.

# %%
import sys
from dataclasses import replace
from pathlib import Path

import tasks
from tasks.preprocessing import Preprocessing
from tasks.studies.residual_study import StudySettings, study

steps = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 850

# %% A thousand images that repeat: can each network fit them at all?
data = tasks.data.open("single_digits", num_train=1000, num_val=200)
settings = StudySettings(steps=steps, points=2, preprocessing=Preprocessing(short_side=None))

# %% Twenty layers: both learn
shallow = replace(settings, networks=("plain_cifar_resnet20", "cifar_resnet20"))
print(study(data, shallow, Path("shallow")).keys())

# %% Fifty-six layers: the plain one does not; its gradients vanish on the way down
deep = replace(settings, networks=("plain_cifar_resnet56", "cifar_resnet56"))
results = study(data, deep, Path("deep"))

# %% Look at deep/residual_study.png: training error above, gradient norms by layer below
for network, found in results.items():
    print(network, sorted(found))
