"""From a trained model and some recordings to predictions."""
