"""bert_pretrained: the words alone, through published BERT weights (Devlin et al. 2019), fine-tuned.

FOLDER holds a Hugging Face BERT: config.json, model.safetensors, and tokenizer.json or vocab.txt; the folder decides
width, layers, heads and tokens, so that any size works. Settings fit MiniLM of 6 layers (Wang et al. 2020,
arXiv:2002.10957); for bert-base lower the learning rate to 5e-5 and use a GPU. The embedding, half of MiniLM, stays as
it is: its dense gradient and its moments took a third of a step's time.

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
    config.optimizer.freeze = "text.stem"
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.warmup_epochs = 0.3
    config.optimizer.layer_decay = 0.9
    config.train.epochs = 3
    config.train.batch_size = 64
    return config
