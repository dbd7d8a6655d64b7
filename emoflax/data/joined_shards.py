"""Shards of several corpora as those of one: each keeps a cache of its own, so adding a corpus recomputes no other."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emoflax.data.clip import Corpus
from emoflax.data.shards import ShardSet


class JoinedShards:
    """Shard sets of several corpora, one after the other, under the ids that their clips have together.

    Attributes:
      manifest: the first one's, without what is of one corpus alone.
      ids, lengths, digests, scales, conditions, failures: as in ShardSet, of all.

    Args:
      sets: name of a source corpus -> its shards, all made with the same settings.
    """

    def __init__(self, sets: Mapping[str, ShardSet]):
        self._sets = tuple(sets.values())
        first = self._sets[0].manifest
        self.manifest: dict[str, Any] = {"settings": first["settings"], "corpus": "+".join(sets)}
        self.ids = tuple(f"{name}/{clip_id}" for name, one in sets.items() for clip_id in one.ids)
        self.digests = tuple(digest for one in self._sets for digest in one.digests)
        self.failures = tuple(failure for one in self._sets for failure in one.failures)
        self.lengths = np.concatenate([one.lengths for one in self._sets])
        self.scales = np.concatenate([one.scales for one in self._sets])
        self.conditions = np.concatenate([one.conditions for one in self._sets])
        self._ends = np.cumsum([len(one) for one in self._sets])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, clip: int) -> np.ndarray:
        """Rows of a clip, [length, ...], as `ShardSet` returns them."""
        which = int(np.searchsorted(self._ends, clip, side="right"))
        return self._sets[which][clip - int(self._ends[which]) + len(self._sets[which])]


def of_sources(corpus: Corpus, compute: Callable[[Corpus], ShardSet]) -> ShardSet | JoinedShards:
    """`compute` of every corpus that this one was joined or chosen from, as it was loaded."""
    sources = corpus.sources or (corpus,)
    if len(sources) == 1:
        return compute(sources[0])
    return JoinedShards({source.name: compute(source) for source in sources})
