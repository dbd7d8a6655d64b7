"""A Whisper checkpoint with random weights: real files through the real openai-whisper, in milliseconds."""

from pathlib import Path


def write(
    path: str | Path, seed: int = 0, multilingual: bool = False, n_mels: int = 80, audio_layers: int = 1,
    weight_scale: float = 1.0,
) -> Path:  # fmt: skip
    """Writes a .pt that `whisper.load_model(path)` loads; its transcripts are nonsense, but the same for one seed.

    n_text_ctx=32 limits decoding to 16 tokens, which keeps it fast.
    """
    import torch
    from whisper.model import ModelDimensions, Whisper

    dims = ModelDimensions(
        n_mels=n_mels, n_audio_ctx=1500, n_audio_state=16, n_audio_head=2, n_audio_layer=audio_layers,
        n_vocab=51865 if multilingual else 51864, n_text_ctx=32, n_text_state=16, n_text_head=2, n_text_layer=1,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    model = Whisper(dims)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(weight_scale * torch.randn(parameter.shape, generator=generator))
    torch.save({"dims": vars(dims), "model_state_dict": model.state_dict()}, path)
    return Path(path)


def write_ctranslate2(folder: Path, seed: int = 2) -> Path:
    """A folder that `faster_whisper.WhisperModel` loads: random weights, converted by CTranslate2's own converter.

    2 is the lowest seed whose transcripts depend on the sound.
    """
    import json

    import tokenizers
    import torch
    import transformers
    from ctranslate2.converters import TransformersConverter
    from whisper.tokenizer import get_encoding

    source = folder / "huggingface"
    source.mkdir(parents=True)
    # Whisper's own tokens without the merges: words are split into bytes, which the decoder joins again.
    encoding = get_encoding("gpt2")
    shown = [byte for byte in range(256) if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + n) for n, byte in enumerate(byte for byte in range(256) if byte not in letters)}
    ranks = {"".join(letters[byte] for byte in token): rank for token, rank in encoding._mergeable_ranks.items()}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ranks, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(sorted(encoding._special_tokens, key=encoding._special_tokens.get))
    tokenizer.save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    end = encoding._special_tokens["<|endoftext|>"]
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(
        vocab_size=51864, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_target_positions=448,
        decoder_start_token_id=end + 1, eos_token_id=end, bos_token_id=end, pad_token_id=end, suppress_tokens=None,
    ))  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "model.encoder.embed_positions.weight":
                scale = 3.0 if "layers" in name else 1.0  # or one word would repeat itself, whatever the sound
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(source)
    TransformersConverter(str(source), copy_files=["tokenizer.json"]).convert(str(folder / "converted"))
    return folder / "converted"
