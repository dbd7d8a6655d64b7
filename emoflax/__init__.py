"""EmoFlax: speech-emotion classifiers in JAX/Flax, from the sound, the words, or both."""
