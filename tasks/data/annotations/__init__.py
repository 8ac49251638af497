"""What is known of images: objects, masks, classes of pixels, classes of images."""
