"""Small Hugging Face folders with random weights, written by `transformers` itself."""

import json
import pathlib

import numpy as np
import torch
import transformers

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "oh", "my", "god", "don", "'", "t", "##s", "##ing", "cry",
              "you", "are", ".", "!", "?", "so", "-", "##d", "##y", "go", "a", "b", "##b"]  # fmt: skip
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight from a wide normal distribution, so that a swapped or forgotten one changes the output visibly."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model.eval()


def ast(folder: pathlib.Path, max_length: int = 66, mels: int = 36, head: bool = False) -> transformers.ASTModel:
    config = transformers.ASTConfig(**SIZES, max_length=max_length, num_mel_bins=mels)
    model = randomised((transformers.ASTForAudioClassification if head else transformers.ASTModel)(config))
    model.save_pretrained(folder)
    return model.audio_spectrogram_transformer if head else model


def bert(folder: pathlib.Path, head: bool = False) -> transformers.BertModel:
    config = transformers.BertConfig(**SIZES, vocab_size=len(VOCABULARY), max_position_embeddings=16)
    model = randomised((transformers.BertForPreTraining if head else transformers.BertModel)(config))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return model.bert if head else model


CONVOLUTIONS = {"conv_dim": (8,) * 7, "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)}
WAVE_CLASSES = {
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, transformers.Wav2Vec2ForCTC),
    "hubert": (transformers.HubertConfig, transformers.HubertModel, transformers.HubertForCTC),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel, transformers.WavLMForCTC),
    "data2vec_audio": (
        transformers.Data2VecAudioConfig, transformers.Data2VecAudioModel, transformers.Data2VecAudioForCTC,
    ),
}  # fmt: skip


def wave(folder: pathlib.Path, encoder: str, *, do_normalize: bool = True, head: bool = False, **fields):
    """A small encoder of waveforms and its preprocessor_config.json."""
    config_of, alone, with_head = WAVE_CLASSES[encoder]
    positions = {"num_conv_pos_embedding_groups": 4}
    if encoder != "data2vec_audio":
        positions["num_conv_pos_embeddings"] = 16
    config = config_of(**(SIZES | CONVOLUTIONS | positions | {"vocab_size": 9} | fields))
    model = randomised((with_head if head else alone)(config))
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return getattr(model, model.base_model_prefix) if head else model


BYTE_PAIRS = ["<s>", "<pad>", "</s>", "<unk>", *"ohmygdnaretucisI!?.'", "Ġ", "oh", "Ġm", "Ġmy", "Ġg", "Ġgo", "Ġgod"]
MERGES = ["o h", "Ġ m", "Ġm y", "Ġ g", "Ġg o", "Ġgo d"]


def roberta(folder: pathlib.Path) -> transformers.RobertaModel:
    """With the tokenizer of the first release: vocab.json and merges.txt."""
    config = transformers.RobertaConfig(
        **SIZES, vocab_size=len(BYTE_PAIRS), max_position_embeddings=18, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    model = randomised(transformers.RobertaForMaskedLM(config))
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(BYTE_PAIRS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return model.roberta


def distilbert(folder: pathlib.Path) -> transformers.DistilBertModel:
    config = transformers.DistilBertConfig(
        vocab_size=len(VOCABULARY), max_position_embeddings=16, dim=24, n_layers=2, n_heads=3, hidden_dim=40
    )
    model = randomised(transformers.DistilBertForMaskedLM(config))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return model.distilbert


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
