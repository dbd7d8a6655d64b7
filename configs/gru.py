"""gru: the words alone, through an embedding and a masked bidirectional GRU (Cho et al. 2014, arXiv:1406.1078).

Cost: a minute a seed on MELD on two cores. On RAVDESS, whose two sentences are spoken in every emotion, it can only be
at chance, which the report states.

    python main.py --config=configs/gru.py --config.data.corpus=meld --config.data.dir=MELD_FOLDER
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "gru"
    config.model.text = "gru"
    config.model.gru.token_dropout = 0.3
    config.model.head = 128
    config.data.buckets = 6
    config.train.epochs = 8
    config.train.batch_size = 64
    config.train.class_weighting = 0.5
    config.train.select = "weighted_f1"
    return config
