"""Predictions and ground truth to numbers, over the whole data set and all ranks."""
