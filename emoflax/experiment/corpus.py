"""The corpus that a config describes."""

from ml_collections import ConfigDict

from emoflax import corpora
from emoflax.data.clip import Corpus


def corpus_of(config: ConfigDict) -> Corpus:
    """See `corpora.load_chosen`."""
    fields = config.data
    choice = dict(fields.labels), fields.emotions, fields.speakers
    return corpora.load_chosen(fields.corpus, fields.dir, fields.cache_dir, *choice, root=fields.root)
