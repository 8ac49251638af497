"""What an image shows as a whole: the classifier, its task, and the study of depth that it serves."""
