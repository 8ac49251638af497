"""A trained model at work on pictures."""
