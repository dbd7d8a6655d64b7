"""Clips, shards, splits, and the rows that a model is trained on."""
