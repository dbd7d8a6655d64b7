"""From a config to trained models. This package and what stands above it see a ConfigDict; nothing below does."""
