"""Which layers of a model can go: strategies rank them, `planning` makes a plan of it."""
