"""bert: the words alone, through a small BERT encoder (Devlin et al. 2019, arXiv:1810.04805), trained from scratch.

Cost: a minute a seed on MELD on two cores. With published weights use configs/bert_pretrained.py.

    python main.py --config=configs/bert.py --config.data.corpus=meld --config.data.dir=MELD_FOLDER
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "bert"
    config.model.text = "bert"
    config.model.pooling = "mean"
    config.model.bert.dropout = 0.3
    config.model.bert.token_dropout = 0.3
    config.data.buckets = 6
    config.optimizer.learning_rate = 1e-3
    config.train.epochs = 8
    config.train.batch_size = 64
    config.train.class_weighting = 0.5
    config.train.select = "weighted_f1"
    return config
