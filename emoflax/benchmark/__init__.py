"""Speed of training, prediction and precompute, measured beside the same work in PyTorch and plain librosa."""
