"""Every corpus by its name: how its recordings are obtained, and how their names are read."""

import dataclasses
import textwrap
from collections.abc import Collection, Mapping, Sequence

from absl import logging

from emoflax.corpora import filenames, joined, manifest, meld, ravdess
from emoflax.corpora.download import UnreachableError
from emoflax.data.clip import Corpus
from emoflax.errors import UserError

NAMES = ("auto", "ravdess", "synthetic", "manifest", "meld", *filenames.CORPORA, "tfds:NAME")
AUTO_RESPONSE_S = 5.0  # the default run must not wait long where there is no network

_BANNER = """
{line}
  NO REAL SPEECH: RAVDESS is not available, the built-in synthetic corpus replaces it.

{reason}

  The results of this run say nothing about real recordings. For these set
    --config.data.dir=FOLDER_OR_ZIP                            (RAVDESS)
    --config.data.corpus=manifest --config.data.dir=FILE.csv   (your own recordings)
{line}"""


def load_chosen(
    names: str,
    dirs: str,
    cache_dir: str,
    labels: Mapping[str, str | None],
    emotions: Sequence[str],
    speakers: Sequence[str],
    root: str = "",
) -> Corpus:
    """The corpus that the fields of config.data describe: one or several joined, and the choice of their clips.

    names, dirs: of one corpus, see `load`; of several, with commas between them.
    labels, emotions, speakers: of `joined.choose`.
    root: folder that relative paths in manifests start at; '': the manifest's.

    Raises UserError as `load` does, or where the choice does not fit the corpus.
    """
    each = split_names(names)
    places = joined.dirs_of(each, dirs)
    if len(each) > 1 and "auto" in each:
        raise UserError("--config.data.corpus: 'auto' stands alone; in a list name RAVDESS or the synthetic corpus")
    corpora = [
        load(name, place, cache_dir, root=root, known_labels=tuple(labels))
        for name, place in zip(each, places, strict=True)
    ]
    return joined.choose(joined.join(corpora), labels, emotions, speakers)


def split_names(names: str) -> list[str]:
    """'ravdess,tess' -> ['ravdess', 'tess']."""
    return [name.strip() for name in names.split(",")]


def load(name: str, dir: str, cache_dir: str, *, root: str = "", known_labels: Collection[str] = ()) -> Corpus:
    """The corpus that `config.data.corpus` names.

    name: one of NAMES. 'auto' is RAVDESS, or with a warning the synthetic corpus where RAVDESS was not given and
      cannot be downloaded.
    dir: folder or file of the corpus; '' where it can be generated or downloaded.
    cache_dir: folder of downloads and of what is unpacked from them.
    root, known_labels: of `manifest.load`, which alone has a use for them.

    Raises UserError when the name is unknown or the corpus is not there, not whole, or not readable.
    """
    if name == "auto":
        return _auto(dir, cache_dir)
    if name == "ravdess":
        return ravdess.load(dir, cache_dir)
    if name == "manifest":
        return manifest.load(dir, cache_dir, root=root, known_labels=known_labels)
    if name == "meld":
        return meld.load(dir, cache_dir)
    if name in filenames.CORPORA:
        return filenames.load(name, dir, cache_dir)
    if name == "synthetic":
        return _synthetic(dir, cache_dir)
    if name.startswith("tfds:") and name != "tfds:":
        from emoflax.corpora import from_tfds  # imports tensorflow-datasets, which takes seconds, and audio libraries

        return from_tfds.load(name.removeprefix("tfds:"), dir, cache_dir)
    raise UserError(f"--config.data.corpus={name} is not known; allowed are {', '.join(NAMES)}.")


def _auto(dir: str, cache_dir: str) -> Corpus:
    if dir:
        try:
            return ravdess.load(dir, cache_dir)
        except UserError as error:
            raise UserError(
                f"{error} (--config.data.corpus=auto expects RAVDESS in --config.data.dir; name the corpus if it is "
                f"another: {', '.join(NAMES[2:])}.)"
            ) from error
    try:
        return ravdess.load("", cache_dir, response_s=AUTO_RESPONSE_S)
    except UnreachableError as error:
        reason = textwrap.fill(str(error), 96, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
        logging.warning(_BANNER.format(line="*" * 96, reason=reason))
    corpus = _synthetic("", cache_dir)
    return dataclasses.replace(corpus, notice=f"stand-in for RAVDESS, which is not available: {corpus.notice}")


def _synthetic(dir: str, cache_dir: str) -> Corpus:
    from emoflax.corpora import synthetic  # writes its recordings

    return synthetic.load(dir, cache_dir)
