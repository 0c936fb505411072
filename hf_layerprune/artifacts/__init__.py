"""The values that flow between the stages, and their files. NumPy only: nothing here imports torch."""
