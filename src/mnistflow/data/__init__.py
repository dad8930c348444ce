"""Data sets: where they come from, how their files are decoded, and the arrays that the other packages get."""
