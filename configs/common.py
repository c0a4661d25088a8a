"""Every setting of an experiment, with the paper's values. The other configs change a few of them.

Durations are one of `steps`, `epochs` or `examples`; the other two stay 0.
"""

import ml_collections


def duration(steps: int = 0, epochs: float = 0.0, examples: int = 0) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict({'steps': steps, 'epochs': epochs, 'examples': examples})


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.name = 'common'
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  # A prepared TFDS directory, or a name ('deepsentinel_labelled/demo') below data_dir (default: TFDS_DATA_DIR or
  # ~/tensorflow_datasets).
  config.data.unlabelled = 'deepsentinel_unlabelled'
  config.data.labelled = 'deepsentinel_labelled'
  config.data.data_dir = ''
  config.data.bands = ''  # comma-separated, in order; '' takes all the records hold
  config.data.crop_px = 128
  config.data.read_threads = 4

  config.encoder = ml_collections.ConfigDict()
  config.encoder.name = 'resnet18'
  config.encoder.width = 64  # channels of the stem; 8 or 16 is the small twin used by tests and the quickstart

  config.pretrain = ml_collections.ConfigDict()
  config.pretrain.objective = 'none'
  config.pretrain.from_checkpoint = ''  # a run whose pretrained encoder is used instead of pretraining here
  config.pretrain.duration = duration(epochs=20)
  config.pretrain.batch_size = 1024  # global, over all devices and processes
  config.pretrain.learning_rate = 5e-4
  config.pretrain.exclude_heldout = True  # leave out points within exclude_km of validation and test patches
  config.pretrain.exclude_km = 3.7
  config.pretrain.sensor_dropout = 0.0  # probability that an example loses one of its sensors
  config.pretrain.tile2vec = ml_collections.ConfigDict()
  config.pretrain.tile2vec.margin = 0.1
  config.pretrain.tile2vec.pooling = 'mean'  # 'mean' | 'cell' (per cell of the feature map, as the paper's code)
  config.pretrain.tile2vec.neighbour = 'near'  # 'near' | 'literal' | 'uniform' | 'other_acquisition' | 'same_patch'
  config.pretrain.tile2vec.neighbour_scale_km = 'auto'  # length of the softmax; auto: mean nearest-neighbour distance
  config.pretrain.tile2vec.max_distance_km = 111.195  # one degree of arc

  config.finetune = ml_collections.ConfigDict()
  config.finetune.target = 'corine_level1'  # 'corine_level1' | 'corine_level2' | 'corine_level3'
  config.finetune.duration = duration(epochs=200)
  config.finetune.batch_size = 600
  config.finetune.learning_rate = 5e-4
  config.finetune.patience_epochs = 40  # stop when validation loss has not improved for this long; 0 never
  config.finetune.validate_every_steps = 0  # 0: once an epoch
  config.finetune.frozen_encoder = False
  config.finetune.sensor_dropout = 0.0

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.batch_size = 256
  config.evaluation.random_forest = False  # the per-pixel baseline, on the same split
  config.evaluation.sample_patches = 6  # shown in the report

  config.checkpoint = ml_collections.ConfigDict()
  config.checkpoint.every_steps = 500
  config.checkpoint.keep = 2
  config.log_every_steps = 20
  return config
