"""From a recording to features on the host: decoding, log-mels, contours, functionals, transcripts, tokens."""
