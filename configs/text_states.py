"""text_states: the words alone: mean and deviation over the tokens of a frozen sentence encoder, ridge regression.

Input: states of a published BERT, such as MiniLM (Wang et al. 2020, arXiv:2002.10957; as a sentence encoder Reimers &
Gurevych 2019, arXiv:1908.10084), of each transcript. `states.weights` is a Hugging Face folder, or its name on the hub
(`pip install 'emoflax[text,hub]'`). Left-out training speakers choose the penalty and the temperature.
Layers 4 and 6 fit MiniLM's six; of another encoder take all to begin with: --config.states.layers="()".
Cost: a minute for MELD's states on a core, once, and seconds for the fit; the dev part plays no part in it.

    python main.py --config=configs/text_states.py --config.data.corpus=meld --config.data.dir=MELD_FOLDER \
        --config.states.weights=FOLDER
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "text_states"
    config.model.functionals = "states"
    config.states.encoder = "bert"
    config.states.weights = "sentence-transformers/all-MiniLM-L6-v2"
    config.states.layers = (4, 6)
    config.states.batch = 32
    config.text.max_tokens = 64
    config.train.class_weighting = 0.5
    config.train.select = "weighted_f1"
    return config
