"""Evaluate a checkpoint: generate answers to held-out questions, score them, and compare with another checkpoint."""
