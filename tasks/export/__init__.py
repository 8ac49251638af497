"""Trained models in files that other programs run, each proved to find what the predictor finds before it is kept."""
