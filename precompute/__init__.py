"""From recordings to numpy shards: the only place where audio libraries and Whisper are imported."""
