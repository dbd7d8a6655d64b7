"""The train step, the loop around it, scoring, optimizer, checkpoints and logs."""
