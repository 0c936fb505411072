"""Models in memory: load one and its processor, turn images and questions into batches, cut its decoder."""
