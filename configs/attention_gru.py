"""attention_gru: the words alone, through the GRU of configs/gru.py and attention pooling, whose weights can be drawn.

Cost: a minute a seed on MELD on two cores.

    python main.py --config=configs/attention_gru.py --config.data.corpus=meld --config.data.dir=MELD_FOLDER
    python main.py --mode=predict --explain --checkpoint=runs/attention_gru-meld-meld/seed0-fold1 --inputs=said.txt
"""

from ml_collections import ConfigDict

from emoflax.configs import gru


def get_config() -> ConfigDict:
    config = gru.get_config()
    config.name = "attention_gru"
    config.model.pooling = "attention"
    return config
