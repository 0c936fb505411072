"""Measure how much each decoder layer changes its input, per domain: probe sets, capture, sums, and the probe itself."""
