"""Changes to images and targets that training sees."""
