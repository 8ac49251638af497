"""What every pixel of an image shows: two heads, their losses, and the way back to original pixels."""
