"""Every field there is, once, with its unit and meaning. A variant imports this and changes what differs.

Any field can be set on the command line: `python main.py --config=configs/cnn2.py --config.train.epochs=10`.
A misspelt name is an error. What each field may hold is in emoflax/experiment/fields.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "default"  # first part of the run folder's name
    config.seeds = (0,)  # one model each: its weights, order of clips, dropout; on a CPU equal bit for bit every time
    # (first, stop): these steps of training, from 0 on, are traced into a folder `profile` beside the checkpoints.
    config.profile_steps = ()

    config.data = ConfigDict(convert_dict=False)
    # 'auto' | 'ravdess' | 'synthetic' | 'manifest' | 'meld' | 'crema_d' | 'tess' | 'savee' | 'emodb' | 'emovo' | 'urdu'
    # | 'ravdess_song' | 'tfds:NAME'; or several with commas between them, as one corpus: 'ravdess,tess,manifest'
    config.data.corpus = "auto"
    # Where the recordings are: a folder, a zip file (ravdess), or the CSV/JSONL file (manifest); of several corpora one
    # each, in their order, with commas between them.
    config.data.dir = ""
    config.data.root = ""  # folder that relative paths in a manifest start at; '': the manifest's own
    # Emotion of the corpus -> what to call it, or None to leave its clips out: {'boredom': None, 'calm': 'neutral'}.
    # A manifest's label that is named here is no typing error, whatever it resembles: {'unhapy': 'unhappy'}.
    config.data.labels = {}
    config.data.emotions = ()  # whose clips are kept; empty: all
    config.data.speakers = ()  # whose clips are kept; empty: all. Of several corpora they are called 'tess:OAF'
    config.data.cache_dir = "cache"  # shards, transcripts, downloads
    # What precompute keeps of the sound: log-mels, or 16-bit waveforms, of which the compiled step makes log-mels.
    config.data.store = "logmel"  # 'logmel' | 'wave'
    config.data.max_s = 6.0  # longer clips are cut into windows of this length, whose log-probabilities are averaged
    # Disturbed copies of each training clip, made by precompute, that are learnt from as well: rooms, noise, babble,
    # narrow bands. Every one costs as much as the clips themselves. With store='logmel', and in closed-form models.
    config.data.copies = 0
    # Whether all rows are put into the devices' memory; else batches are streamed from the cache. Both give one result.
    config.data.resident = "auto"  # 'auto': if they take no more than half of it | 'yes' | 'no'
    config.data.buckets = 3  # clips are grouped by length into this many padded widths

    config.split = ConfigDict()
    # 'auto' | 'emobox6' | 'luna5' | 'loso24' | 'random_split' | 'random5' | 'speakers5' | 'loco' | 'given' | 'lists'
    # Behind any of them '+speakernorm' (or '+corpusnorm'): each speaker's (corpus's) features are normalised by that
    # speaker's (corpus's) own recordings.
    # auto: loco for several corpora, emobox6 for RAVDESS, the corpus's own split where it has one, else speakers5
    config.split.protocol = "auto"
    config.split.fold = "1"  # '1', '2', ... or 'all': every fold, then one report over all clips
    config.split.dev_share = 0.15  # of the training speakers (random protocols: clips); chooses the epoch. 0: the last
    config.split.train_speakers = ()  # 'lists' only; empty train: everyone who is not in the other two
    config.split.dev_speakers = ()
    config.split.test_speakers = ()

    config.audio = ConfigDict()
    # 'librosa': dB, mels of your choice | 'whisper': what Whisper was trained on, 25 and 10 ms, 80 or 128 mels
    # | 'kaldi': what AST was trained on, 25 and 10 ms, 20 to 8000 Hz, 128 mels
    # | 'waveform': no log-mel; an encoder of waveforms gets the samples, in frames of 20 ms (mels: samples of a frame)
    config.audio.frontend = "librosa"
    config.audio.sample_rate_hz = 16_000
    # 'normalised': active speech has the same level (ITU-T P.56) in every recording | 'absolute': as it was recorded
    config.audio.level = "normalised"
    config.audio.trim_db = 35.0  # silence this far under the clip's peak is cut off at both ends; 0 keeps it
    config.audio.window_ms = 64.0
    config.audio.hop_ms = 32.0
    config.audio.mels = 64
    config.audio.fmin_hz = 50.0
    config.audio.fmax_hz = 8_000.0
    config.audio.contours = False  # pitch, voice quality, formants, spectral shape beside the mel bands of each frame

    config.functionals = ConfigDict()
    # 'own', which the next two fields choose from | openSMILE's 'eGeMAPSv02' or 'ComParE_2016' (optional install)
    config.functionals.feature_set = "own"
    config.functionals.statistics = True  # of the contours of voice and spectrum
    config.functionals.kernels = 0  # random convolutions over log-mels and contours, five statistics of each
    # Kinds of statistics that the fit does without, for recordings of other corpora: 'course' over the clip, 'levels'
    # (means and percentiles, but for pitch) and 'bands' (all of mel bands and cepstra)
    config.functionals.leave_out = ()
    # A clip is played at each of these speeds, pitch and formants with it; log-probabilities are averaged.
    config.functionals.speeds = (1.0,)

    # Augmentation of the training clips' log-mels, drawn anew for each clip and step. 0 switches one off.
    config.augment = ConfigDict()
    config.augment.crop = 0.0  # up to this share of a clip is cut off, divided by chance between both ends
    config.augment.stretch = 0.0  # time stretch by a factor from 1 / (1 + this) to 1 + this
    config.augment.vtlp = 0.0  # vocal tract length: frequencies times a factor from 1 / (1 + this) to 1 + this
    config.augment.shift_bands = 0.0  # shift of the mel axis, in bands, up to this far up or down
    config.augment.tilt_db = 0.0  # slope over the mel axis: up to this between the lowest and the highest band
    config.augment.gain_db = 0.0  # up to this louder or softer
    config.augment.noise = 0.0  # share of the clips that get white noise
    config.augment.noise_snr_db = (5.0, 40.0)  # signal-to-noise ratio, drawn from this range
    config.augment.band_limit = 0.0  # share of the clips that lose the bands above a frequency, as through a codec ...
    config.augment.band_limit_hz = (3_400.0, 8_000.0)  # ... drawn from this range; contours stay as they are
    config.augment.mixup = 0.0  # a of Beta(a, a); audio models only
    config.augment.contour_shift = 0.0  # each contour moves by a normal draw of this many training deviations
    config.augment.contour_drop = 0.0  # share of a clip's contours set to the training mean
    config.augment.time_masks = 0  # SpecAugment: stretches of frames set to the training mean ...
    config.augment.time_mask_share = 0.15  # ... each up to this share of the clip
    config.augment.band_masks = 0  # SpecAugment: ranges of mel bands set to the training mean ...
    config.augment.band_mask_share = 0.15  # ... each up to this share of all bands

    # The same before log-mels are made, with config.data.store='wave'.
    config.augment.wave = ConfigDict()
    config.augment.wave.crop = 0.0  # up to this share of a clip is cut off, to the sample
    config.augment.wave.speed = 0.0  # pitch and tempo times a factor from 1 / (1 + this) to 1 + this
    config.augment.wave.pitch_semitones = 0.0  # up or down; the tempo is restored on the log-mel
    config.augment.wave.room = 0.0  # share of the clips that sound as in a room
    config.augment.wave.room_rt60_s = (0.1, 0.6)  # its reverberation time, drawn from this range
    config.augment.wave.room_direct_db = (0.0, 15.0)  # direct sound over reverberation, drawn from this range
    config.augment.wave.noise = 0.0  # share of the clips that get noise between white and pink
    config.augment.wave.noise_snr_db = (5.0, 40.0)
    config.augment.wave.babble = 0.0  # share of the clips that get three others of the batch as babble
    config.augment.wave.babble_snr_db = (0.0, 20.0)
    config.augment.wave.band = 0.0  # share of the clips that lose what is above a frequency, every other 0 to 300 Hz
    config.augment.wave.band_top_hz = (3_400.0, 8_000.0)  # that frequency, drawn from this range
    config.augment.wave.gain_db = 0.0
    config.augment.wave.polarity = 0.0  # share of the clips turned upside down; a log-mel does not show it

    config.text = ConfigDict()
    config.text.source = "auto"  # 'auto' | 'whisper' | 'reference' | 'file'; only auto ever falls back
    config.text.file = ""  # source 'file': CSV or JSONL with columns id (or file) and text
    config.text.engine = "openai-whisper"  # 'openai-whisper' | 'faster-whisper' (optional install)
    # A model's name; or the path of a .pt file (openai-whisper), of a CTranslate2 folder (faster-whisper).
    config.text.whisper_model = "base.en"
    config.text.whisper_batch = 8
    config.text.language = "en"
    config.text.prompt = ""  # words that Whisper is told came before
    config.text.beam = 0  # width of Whisper's beam search; 0: greedy
    # Folder with tokenizer.json, vocab.txt, or vocab.json and merges.txt, whose subwords take the place of our words,
    # lowercase and min_count.
    config.text.tokenizer = ""
    config.text.lowercase = True
    config.text.punctuation = True  # marks are tokens, for '!' and '?' differ between emotions; False: words alone
    config.text.min_count = 2  # words seen less often in the training split become <unk>
    config.text.max_tokens = 32  # longer transcripts are cut

    config.precompute = ConfigDict()
    config.precompute.workers = 0  # processes; 0: one per core
    # Apache Beam in their place (--runner): 'DirectRunner' | 'DaskRunner' | 'FlinkRunner' | 'SparkRunner' |
    # 'DataflowRunner'; '': none
    config.precompute.runner = ""
    config.precompute.runner_options = ()  # what follows -- on the command line: Beam's own
    config.precompute.shard_clips = 256
    config.precompute.max_bad_share = 0.02  # of unreadable clips; more stop the run, fewer are listed and left out

    # States of a pretrained encoder: mean and deviation over each clip's time, or over its tokens, of every layer's
    # output. They are the input of config.model.functionals='states' and of --mode=probe; --mode=precompute makes them.
    config.states = ConfigDict()
    config.states.encoder = (
        "whisper"  # an encoder that has published weights (docs/pretrained.md); 'bert': of the words
    )
    # These: a file or folder, org/name@revision on the Hugging Face hub, an openai-whisper name. '': no states
    config.states.weights = ""
    # Whisper only: silence behind each clip, up to 30 s in all. 30: as published. Less is faster, and not the same.
    config.states.silence_s = 5.0
    config.states.parts = 0  # means of so many equal parts of each clip's time, beside mean and deviation of the whole
    config.states.layers = ()  # that 'states' takes, 0: the input of the first one; empty: all
    config.states.batch = 8  # clips that go through the encoder at once
    config.states.width = 0  # follows from the weights
    config.states.depth = 0  # layers, the input of the first one included; follows from the weights

    config.probe = ConfigDict()
    config.probe.ridges = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # penalties to choose from, in multiples of the width

    config.model = ConfigDict()
    # Name of an audio encoder in emoflax/models/__init__.py, 'my_module:MyEncoder' for one of your own, or '' for none.
    config.model.audio = ""
    config.model.text = ""  # name of a text encoder, 'my_module:MyEncoder', or ''
    # Log-mels in dB: the top bands that stay so far under a clip's loudest cell were not recorded (8 kHz, codecs) and
    # get the training mean; 0: they hold their floor.
    config.model.absent_db = 65.0
    # Per-channel energy normalisation of the mel bands in the place of dB. time_s: of its smoother; 0: off, usual 0.4.
    config.model.pcen = ConfigDict({"time_s": 0.0, "gain": 0.98, "bias": 2.0, "root": 0.5})
    # A closed-form model in the place of encoders: 'ridge', of statistics over the clip | 'aligned', of random
    # convolutions over each part of a text that many clips say | 'states', of a pretrained encoder's states |
    # 'layer_sum', of a learned sum of its layers | ''
    config.model.functionals = ""
    config.model.states = ConfigDict({"ridges": (0.3, 1.0, 3.0, 10.0)})
    # Penalties, from which left-out training speakers choose; functionals are scaled by their correlation ratio with
    # the labels to the power of scale_power.
    config.model.ridge = ConfigDict({"ridges": (0.1, 0.3, 1.0, 3.0), "scale_power": 0.5})
    # Templates have so many states, in equal parts, and at most so many texts have one; kernels: random convolutions.
    config.model.aligned = ConfigDict({
        "states": 32, "parts": 8, "kernels": 1000, "texts": 16, "ridges": (0.1, 0.3, 1.0, 3.0),
    })  # fmt: skip
    # layers: follows from states.layers; hidden: units of the head's hidden layer, 0: none.
    config.model.layer_sum = ConfigDict({"layers": 0, "hidden": 0, "penalties": (0.003, 0.01, 0.03, 0.1)})
    # Of an audio encoder with layers: numbers of those whose outputs are pooled side by side, 0: the input of the first
    # one; empty: the encoder's own output. Without dropout in the encoder.
    config.model.layers = ()
    # Of a sequence over time: 'mean' | 'mean_max' | 'attention' | 'mean_std', standardised by the training clips
    config.model.pooling = "mean_max"
    config.model.fusion = "concat"  # of sound and words: 'concat' | 'early' | 'late' | 'gated' | 'hybrid'
    # Share of the training clips whose sound, and of those whose words, are taken for missing; never both of one clip.
    config.model.modality_dropout = ConfigDict({"audio": 0.0, "text": 0.0})
    config.model.head = 0  # units of the hidden layer before the logits; 0: none
    config.model.dropout = 0.3
    config.model.cnn = ConfigDict({"channels": (32, 64)})  # one convolution per entry
    config.model.attention_cnn = ConfigDict({
        "width": 128, "kernel": 3, "stem_kernel": 5, "stride": 2, "dilations": (1, 2, 4, 1), "dropout": 0.1,
    })  # fmt: skip
    config.model.attention = ConfigDict({"heads": 4, "hidden": 64})  # pooling; heads divide the sequence's width
    config.model.early = ConfigDict({"width": 128, "layers": 2, "heads": 4, "dropout": 0.1})
    config.model.late = ConfigDict({"combine": "logits"})  # what is averaged: 'logits' | 'probabilities'
    config.model.hybrid = ConfigDict({"width": 128, "heads": 4, "dropout": 0.1})
    config.model.ast = ConfigDict({
        "width": 128, "layers": 4, "heads": 4, "hidden": 512, "patch": 16, "stride": 10, "max_frames": 600,
        "dropout": 0.1,
    })  # fmt: skip
    config.model.whisper = ConfigDict(  # silence_s: behind each clip; published weights make 0 the 30 that they expect
        {"width": 128, "layers": 2, "heads": 4, "dropout": 0.1, "silence_s": 0.0}
    )
    # Encoders of waveforms. extractor_*: their convolutions; positions: steps, groups and number of those that mark
    # where a step is; norm_first: layer normalisation before each part ("stable"); normalise: each clip's waveform.
    for encoder in ("data2vec_audio", "hubert", "wav2vec2", "wavlm"):
        config.model[encoder] = ConfigDict({
            "width": 128, "layers": 2, "heads": 4, "hidden": 512, "dropout": 0.1, "norm_first": False,
            "channels": (64,) * 7, "kernels": (10, 3, 3, 3, 3, 2, 2), "strides": (5, 2, 2, 2, 2, 2, 2),
            "extractor_norm": "layer", "extractor_bias": False, "projection_norm": True,
            "positions": (128, 16, 1), "positions_norm": False, "normalise": True,
        })  # fmt: skip
    config.model.data2vec_audio.update(positions=(19, 16, 5), positions_norm=True)
    config.model.wavlm.update(buckets=320, distance=800)  # of its attention's bias: kinds of distances, farthest, steps
    config.model.bert = ConfigDict({  # epsilon: added to the variance in layer normalisation
        "width": 64, "layers": 2, "heads": 4, "hidden": 256, "positions": 64, "epsilon": 1e-12, "dropout": 0.1,
        "token_dropout": 0.1,
    })  # fmt: skip
    # Published weights for the encoder of each kind: a folder, or org/name@revision on the Hugging Face hub; they
    # decide its sizes and features. '': from scratch.
    config.model.pretrained = ConfigDict({"audio": "", "text": ""})
    # Low-rank adapters beside these matrices of every Transformer layer, whose own weights config.optimizer.freeze
    # keeps: 'query', 'key', 'value', 'out', 'up', 'down'. alpha / rank multiplies what they add. rank 0: none
    config.model.lora = ConfigDict({"rank": 0, "alpha": 16.0, "targets": ("query", "value")})
    config.model.gru = ConfigDict({"embedding": 128, "hidden": 128, "dropout": 0.3, "token_dropout": 0.1})

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2e-3  # peak
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.schedule = "cosine"  # 'cosine' | 'constant'
    config.optimizer.weight_decay = 1e-2  # AdamW, kernels only
    config.optimizer.clip_norm = 1.0  # global gradient norm; 0: no clipping
    # What stays as it is: 'encoders', 'audio', 'text', or longer beginnings of parameter paths: 'audio.stem,text';
    # '-mlp_norm' keeps parts of that name out of it, and adapters are never frozen.
    config.optimizer.freeze = ""
    config.optimizer.layer_decay = 1.0  # a Transformer layer's rate is that of the layer above times this
    config.optimizer.unfreeze_epochs = 0.0  # every so many one more Transformer layer trains, from the top; 0: all do

    config.train = ConfigDict()
    config.train.epochs = 20
    config.train.batch_size = 16
    config.train.dtype = "float32"  # arithmetic of the forward pass: 'float32' | 'bfloat16'; weights stay float32
    # Weight of a class in the loss or ridge: (1 / its frequency) to this power. 1: classes count the same; 0: clips do.
    config.train.class_weighting = 1.0
    # Closed-form models: whose clips are left out together to choose the penalty and the temperature: 'speaker', or
    # 'corpus' (with those of the same people), so that both fit a corpus that is not in training.
    config.train.leave_out = "speaker"
    config.train.balance_corpora = (
        False  # of several corpora each counts the same; its classes, too, by class_weighting
    )
    config.train.select = "uar"  # dev score that picks the epoch: 'uar' | 'accuracy' | 'macro_f1' | 'weighted_f1'
    config.train.label_smoothing = 0.0
    # First weights of the head: 'random' | 'ridge': those of a ridge regression of what it gets of the training clips
    # (penalties: model.states.ridges), so that training begins at a closed-form model. Of pooling='mean_std'.
    config.train.start = "random"
    # Weight of a supervised contrastive loss beside the cross-entropy; not with mixup, and not of functionals.
    config.train.contrastive = 0.0
    config.train.temperature = 0.1  # of that loss: the lower, the more the nearest clips count
    config.train.projection = 64  # width of the vectors that it compares
    config.train.ema = 0.0  # decay per step of the averaged weights that are evaluated; 0: none
    config.train.population = 0  # models (seeds, folds) trained at once in one program; 0, 1: one after the other
    config.train.save_epochs = 1  # a checkpoint every so many epochs

    # Test-time augmentation: dev, test and new clips are judged at every speed with every shift of the mel axis (in
    # bands); log-probabilities are averaged. May change after training.
    config.evaluate = ConfigDict({"speeds": (1.0,), "band_shifts": (0.0,)})
    # A prediction is called unsure below the confidence from which on this share of the dev clips was right; 0: never.
    config.evaluate.unsure = 0.0

    config.report = ConfigDict()
    config.report.html = True  # report.html beside report.md: one file to look at
    config.report.audio = True  # mistakes can be listened to in it: it then holds parts of the corpus's recordings

    config.log = ConfigDict()
    # MLflow: a folder, or the address of a server, where finished runs are logged beside TensorBoard's files; '': no.
    config.log.mlflow = ""

    # --mode=crossval: each fold's choices are made on its training speakers alone, then its test clips are scored once.
    config.crossval = ConfigDict(convert_dict=False)
    # What may be chosen: name -> {'optimizer.learning_rate': 1e-3, ...}, what it changes here. Empty: nothing.
    config.crossval.candidates = {}
    config.crossval.inner_share = 0.25  # of the training speakers (random protocols: clips), who judge by train.select
    config.crossval.final = (
        True  # False: candidates are scored on the inner validation speakers, and no test clip is scored
    )
    config.crossval.choose_epoch = False  # the epoch, too; else the last one
    # Of one candidate, too, with nothing to choose, an inner model is trained, whose predictions give the temperature.
    config.crossval.calibrate = False
    config.crossval.workers = 0  # models trained at once, each in a process of its own; 0, 1: one after the other, here
    # As in --mode=sweep: several processes or hosts run this same command and divide the models among themselves.
    config.crossval.shared = False
    config.crossval.permute_labels = 0  # n > 0: training labels are shuffled by seed n; what is left is chance

    # --mode=fit: the models that crossval chose, trained on all speakers and written as one bundle.
    config.fit = ConfigDict()
    config.fit.members = "ensemble"  # 'ensemble' | 'best': of the candidates, the best one alone
    config.fit.licence = ""  # of the training data, for the model card; '': what is known of the corpus

    # --mode=sweep: a search on training speakers alone, judged as crossval judges its candidates.
    config.sweep = ConfigDict(convert_dict=False)
    # field -> ('log', low, high) | ('uniform', low, high) | ('int', low, high) | ('choice', a, b, ...)
    config.sweep.space = {}
    config.sweep.trials = 40
    config.sweep.batch = 1  # trials drawn at once; crossval.workers processes try them
    config.sweep.startup_trials = 8  # drawn at random; after them the search learns from them, and pruning begins
    config.sweep.prune_after_epochs = 10  # a trial is not pruned earlier
    return config
