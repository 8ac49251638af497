"""Trains a detector on the embedded digits, scores it and applies it: `python examples/train_in_python.py`."""

import tasks

data = tasks.data.open("digits")
run = tasks.train("detection", data)  # minutes; settings=tasks.TrainSettings(…) for others than the recipe's
print(tasks.evaluate(run.model_file, data, split="test").numbers["AP"])
print(tasks.load_predictor(run.model_file, score_threshold=0.5)(data.split("test").image(0)).summary())
