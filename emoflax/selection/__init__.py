"""What is chosen on training speakers: nested cross-validation, sweeps, probes, ensemble weights."""
