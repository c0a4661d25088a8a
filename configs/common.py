"""Every setting of an experiment, with the paper's values. The other configs change a few of them.

Durations are one of `steps`, `epochs` or `examples`; the other two stay 0. The experiments' config files take a size
after a colon: `--config=configs/t2v_resnet18.py` is of the paper's size, `--config=configs/t2v_resnet18.py:small` its
twin for a laptop, on the demo records.
"""

import ml_collections

SIZES = ('paper', 'small')


def duration(steps: int = 0, epochs: float = 0.0, examples: int = 0) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict({'steps': steps, 'epochs': epochs, 'examples': examples})


def get_config(size: str = 'paper') -> ml_collections.ConfigDict:
  if size not in SIZES:
    raise ValueError(f'Unknown size {size!r} after the colon of --config. Known: {", ".join(SIZES)}.')
  config = ml_collections.ConfigDict()
  config.name = 'common'
  config.size = 'paper'
  config.seed = 0
  config.dtype = 'float32'  # of the arithmetic; 'bfloat16' on GPUs. Parameters, losses and outputs stay float32

  config.data = ml_collections.ConfigDict()
  # A prepared TFDS directory, or a name ('deepsentinel_labelled/demo') below data_dir (default: TFDS_DATA_DIR or
  # ~/tensorflow_datasets). Either may be a URL, of which crops are read where they lie.
  config.data.unlabelled = 'deepsentinel_unlabelled'
  config.data.labelled = 'deepsentinel_labelled'
  config.data.data_dir = ''
  config.data.download = False  # copies records at a URL to this machine first: faster from the second epoch on
  config.data.bands = ''  # comma-separated, in order; '' takes all the records hold
  config.data.crop_px = 128  # from anywhere in a patch; of a scene ('mine') around its middle
  config.data.read_threads = 4
  # 'always': every device holds the training patches, read once, and no step waits for pixels; 'auto': on GPUs, where
  # they take at most half of the memory that is free; 'never'. No number depends on it.
  config.data.resident = 'auto'

  config.encoder = ml_collections.ConfigDict()
  config.encoder.name = 'resnet18'
  config.encoder.width = 64  # channels of the stem; 8 or 16 is the small twin used by tests and the quickstart

  config.pretrain = ml_collections.ConfigDict()
  config.pretrain.objective = 'none'  # 'none' | 'vae' | 'tile2vec' | 'contrastive'
  config.pretrain.from_checkpoint = ''  # a run whose pretrained encoder is used instead of pretraining here
  config.pretrain.duration = duration(epochs=20)
  config.pretrain.batch_size = 1024  # global, over all devices and processes
  _optimiser(config.pretrain)
  # Probes the encoder with labelled validation patches every so many steps, beside the loss in metrics.csv and
  # TensorBoard; 0: never. It changes nothing of the training.
  config.pretrain.probe_every_steps = 0
  config.pretrain.exclude_heldout = True  # leave out points within exclude_km of validation and test patches
  config.pretrain.exclude_km = 3.7  # this close to them; folds of finetune.folds keep as far apart
  # Parts of patches that lie together, each for an equal share of every batch; neighbours and distant patches are of
  # the same part. A device holds the parts of its share alone, so all together hold a corpus too large for one. Another
  # law of drawing: results depend on this number (not on that of devices), so leave 1 where memory suffices.
  config.pretrain.regions = 1
  config.pretrain.sensor_dropout = 0.0  # probability that an example loses one of its sensors
  config.pretrain.masked_cloud = 0.0  # ... that it loses optical pixels, as those a cloud mask takes
  config.pretrain.painted_cloud = 0.0  # ... that cloud is painted over its optical bands, and not masked
  config.pretrain.cloud_shadow = 0.0  # ... that the shadow of clouds darkens a part of them

  config.pretrain.vae = ml_collections.ConfigDict()
  config.pretrain.vae.kl_weight = 0.1  # 1: the evidence lower bound with unit noise; 0: none, as the paper's code
  config.pretrain.vae.sample = True  # False decodes the mean of the latent, the autoencoder's way

  config.pretrain.tile2vec = ml_collections.ConfigDict()
  # 'triplet' is the paper's. Where neighbours are hardly more alike than distant patches it is smallest for an encoder
  # that tells nothing apart (docs/findings.md); symmetric InfoNCE over the whole batch is not.
  config.pretrain.tile2vec.loss = 'infonce'
  config.pretrain.tile2vec.margin = 0.1  # of the triplet
  config.pretrain.tile2vec.temperature = 0.1  # of InfoNCE
  config.pretrain.tile2vec.pooling = 'mean'  # 'mean' | 'cell' (per cell of the feature map, as the paper's code)
  config.pretrain.tile2vec.neighbour = 'near'  # 'near' | 'literal' | 'uniform' | 'other_acquisition' | 'same_patch'
  # Length of the softmax, as text: '5'; auto: mean nearest-neighbour distance.
  config.pretrain.tile2vec.neighbour_scale_km = 'auto'
  config.pretrain.tile2vec.max_distance_km = 111.195  # one degree of arc

  config.pretrain.contrastive = ml_collections.ConfigDict()
  config.pretrain.contrastive.loss = 'triplet'  # 'triplet', the paper's | 'infonce' (symmetric), the original CSF's
  config.pretrain.contrastive.margin = 0.1  # of the triplet
  config.pretrain.contrastive.temperature = 0.1  # of InfoNCE
  config.pretrain.contrastive.augment = ml_collections.ConfigDict()
  # Strength 0 for the warm-up, then a straight rise to 1 over the ramp; each pair is (at strength 0, at strength 1).
  config.pretrain.contrastive.augment.warmup_epochs = 5.0
  config.pretrain.contrastive.augment.ramp_epochs = 10.0
  config.pretrain.contrastive.augment.hold = True  # False: falls back to strength 0 after the ramp, as the paper's code
  config.pretrain.contrastive.augment.band_dropout = (0.01, 0.3)
  config.pretrain.contrastive.augment.shift_px = (1, 16)
  config.pretrain.contrastive.augment.jitter = (0.01, 0.1)
  config.pretrain.contrastive.augment.rounds = (1, 10)

  config.finetune = ml_collections.ConfigDict()
  # 'corine_level1' | 'corine_level2' | 'corine_level3' | 'corine_level1_nodata' (the paper's seven) | 'osm' | 'mine' |
  # 'landcover' (the classes of the data set's own map) | 'landcover_level1' (those, as classes of CORINE level 1)
  config.finetune.target = 'corine_level1'
  config.finetune.duration = duration(epochs=200)
  config.finetune.batch_size = 600
  _optimiser(config.finetune)
  config.finetune.patience_epochs = 40.0  # stop when validation loss has not improved for this long; 0 never
  config.finetune.validate_every_steps = 0  # 0: once an epoch
  config.finetune.frozen_encoder = False
  config.finetune.sensor_dropout = 0.0
  config.finetune.masked_cloud = 0.0
  config.finetune.painted_cloud = 0.0
  config.finetune.cloud_shadow = 0.0
  config.finetune.label_fraction = 1.0  # of the train and validation patches; nested, the same for every method
  config.finetune.folds = 0  # k: cross-validate over spatial folds of train and validation instead of testing

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.batch_size = 256
  config.evaluation.test = True  # False leaves the test split unread: for runs that choose a hyper-parameter
  config.evaluation.random_forest = False  # the per-pixel baseline, on the same split
  config.evaluation.sample_patches = 6  # shown in the report

  config.checkpoint = ml_collections.ConfigDict()
  config.checkpoint.every_steps = 500
  config.checkpoint.keep = 2
  config.log_every_steps = 20
  return _small(config) if size == 'small' else config


def _optimiser(section: ml_collections.ConfigDict) -> None:
  section.learning_rate = 5e-4  # of Adam
  section.schedule = 'constant'  # 'constant' | 'cosine' (to 0 at the last step)
  section.warmup_steps = 0  # linear rise of the learning rate
  section.clip_norm = 0.0  # largest norm of the gradient; 0: any
  # Parts that a device takes its share of a batch in, to save memory; negatives and batch norm are those of one part.
  section.accumulate = 1


def _small(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  config.size = 'small'
  config.encoder.width = 8
  config.data.unlabelled = 'deepsentinel_unlabelled/demo'
  config.data.labelled = 'deepsentinel_labelled/demo'
  config.data.crop_px = 64
  # So short a run needs larger steps than the paper's.
  config.pretrain.duration = duration(steps=2000)
  config.pretrain.batch_size = 16
  config.pretrain.learning_rate = 2e-3
  # 300 steps left 14 points of weighted IoU on the table (SyntheticEarth, `none`, ResNet18: 56 to 70).
  config.finetune.duration = duration(steps=1000)
  config.finetune.batch_size = 16
  config.finetune.learning_rate = 2e-3
  # At a constant rate, with few labels, one validation differs by 10 points from the next.
  config.finetune.schedule = 'cosine'
  config.finetune.patience_epochs = 0.0
  config.finetune.validate_every_steps = 100
  config.evaluation.batch_size = 64
  config.checkpoint.every_steps = 100
  config.log_every_steps = 10
  return config
