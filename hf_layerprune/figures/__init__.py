"""Figures from records, drawn with matplotlib (the extra `plot`) in a light and a dark version."""
