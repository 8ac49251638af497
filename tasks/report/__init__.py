"""What a run or an evaluation found, as one page for people and one file of numbers."""
