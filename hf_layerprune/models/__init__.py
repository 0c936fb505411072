"""Models in memory: load one and its processor, turn pictures and questions into batches, cut its decoder."""
