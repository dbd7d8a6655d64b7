"""A Whisper checkpoint with random weights: real files through the real openai-whisper, in milliseconds."""

from pathlib import Path


def write(
    path: str | Path, seed: int = 0, multilingual: bool = False, n_mels: int = 80, audio_layers: int = 1,
    weight_scale: float = 1.0,
) -> Path:  # fmt: skip
    """Writes a .pt that `whisper.load_model(path)` loads; it hears nonsense, but the same nonsense every time.

    n_text_ctx 32 keeps decoding to 16 tokens. The output bias of the real model's embeddings is missing here, so
    embeddings are scaled up: otherwise every clip would get the same words.
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
