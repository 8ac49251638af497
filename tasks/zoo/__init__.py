"""The model zoo: names to builders, model files, pretrained weights, transfer."""
