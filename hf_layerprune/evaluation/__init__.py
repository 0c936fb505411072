"""Evaluation: put questions to a checkpoint, score its answers, and compare them with another checkpoint's."""
