"""bert_pretrained: the words alone, through published BERT weights (Devlin et al. 2019), fine-tuned.

FOLDER holds a Hugging Face BERT: config.json, model.safetensors, and tokenizer.json or vocab.txt. Nothing is
downloaded; the folder decides width, layers, heads and tokens, so that any size works. Learning rates as in the paper,
with layer-wise decay. Cost: bert-base needs a GPU.

    python main.py --config=configs/bert_pretrained.py --config.model.pretrained.text=FOLDER
"""

from ml_collections import ConfigDict

from emoflax.configs import bert


def get_config() -> ConfigDict:
    config = bert.get_config()
    config.name = "bert_pretrained"
    config.model.bert.dropout = 0.1
    config.model.bert.token_dropout = 0.0
    config.model.dropout = 0.1
    config.text.max_tokens = 64
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_epochs = 0.3
    config.optimizer.layer_decay = 0.9
    config.train.epochs = 4
    config.train.batch_size = 32
    return config
