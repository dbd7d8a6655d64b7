"""Predictions of a trained model on new recordings and texts, and pictures of its attention."""
