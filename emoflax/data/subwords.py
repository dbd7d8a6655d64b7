"""The subword tokenizer of a Hugging Face folder, kept as one JSON text that shards and checkpoints carry along."""

import json
import pathlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from emoflax.errors import UserError, optional

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def read(source: str) -> str:
    """The JSON of a folder's tokenizer.json, or one for BERT's WordPiece made from its vocab.txt.

    Args:
      source: the folder, or such a JSON, which is given back.

    Raises:
      UserError: the folder has neither, or they are damaged.
    """
    if source.startswith("{"):
        return source
    whole, words = (pathlib.Path(source) / name for name in ("tokenizer.json", "vocab.txt"))
    if not whole.is_file() and not words.is_file():
        raise UserError(
            f"there is neither {whole} nor {words.name} beside it. Nothing is downloaded: put the tokenizer files of "
            "the model there, or set config.text.tokenizer='' for whole words"
        )
    library = _tokenizers()
    try:
        tokenizer = library.Tokenizer.from_file(str(whole)) if whole.is_file() else _word_pieces(words)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"the tokenizer in {source} is damaged ({error}); copy it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer.to_str()


def vocabulary(tokenizer: str) -> tuple[str, ...]:
    """Every token, at the place of its id."""
    places = _tokenizers().Tokenizer.from_str(tokenizer).get_vocab()
    names = {place: token for token, place in places.items()}
    return tuple(names.get(place, "") for place in range(max(names) + 1))


def cutter(tokenizer: str, max_tokens: int) -> Callable[[str], list[str]]:
    """Text -> tokens, special ones included; longer texts are cut so that the closing one stays."""
    made = _tokenizers().Tokenizer.from_str(tokenizer)
    made.enable_truncation(max_tokens)
    return lambda text: made.encode(text).tokens


def _word_pieces(path: pathlib.Path) -> "Tokenizer":
    """BERT's tokenizer as its first release has it; a neighbouring tokenizer_config.json may keep the case."""
    places = {line: i for i, line in enumerate(path.read_text(encoding="utf-8").split("\n")) if line}
    settings = path.with_name("tokenizer_config.json")
    lowercase = json.loads(settings.read_text()).get("do_lower_case", True) if settings.is_file() else True
    library = _tokenizers()
    tokenizer = library.Tokenizer(library.models.WordPiece(places, unk_token="[UNK]"))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    ends = ("[SEP]", places["[SEP]"]), ("[CLS]", places["[CLS]"])
    tokenizer.post_processor = library.processors.BertProcessing(*ends)
    return tokenizer


def _tokenizers() -> ModuleType:
    with optional("A tokenizer of subwords", "text"):
        import tokenizers
    return tokenizers
