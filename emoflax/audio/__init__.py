"""What runs on the device: log-mels of waveforms, augmentation, PCEN, test-time augmentation, random kernels."""
