"""The corpus that a config describes."""

from ml_collections import ConfigDict

from emoflax import corpora
from emoflax.data.clip import Corpus


def corpus_of(config: ConfigDict) -> Corpus:
    """See `corpora.load_chosen`."""
    fields = config.data
    return corpora.load_chosen(
        fields.corpus, fields.dir, fields.cache_dir, dict(fields.labels), fields.emotions, fields.speakers
    )
