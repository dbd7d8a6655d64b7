"""Our train step beside the same model written in PyTorch."""
