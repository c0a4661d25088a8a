"""The main job on the 24 real BigEarthNet v2 pairs: Tile2Vec on all of them, a segmentation smoke run on one.

They are 120 px wide, so crops are 112 px; 21 of them lie within 85 km, so a neighbour is at most 3 km away. So few
patches prove no method better than another: what counts is that every unit, grid and label is right. One patch alone
has CORINE pixels; it stands in train, validation and test at once, and its score says only that the chain runs.

    DEEPSENTINEL_DATA=... bash launch/real_data.sh
"""

from configs import common


def get_config():
  config = common.get_config()
  config.name = 'bigearthnet'
  config.encoder.name = 'resnet18attn'
  config.encoder.width = 16
  config.data.unlabelled = 'deepsentinel_unlabelled/custom'
  config.data.labelled = 'deepsentinel_labelled/custom'
  config.data.crop_px = 112
  config.pretrain.objective = 'tile2vec'
  config.pretrain.duration = common.duration(steps=200)
  config.pretrain.batch_size = 8
  config.pretrain.exclude_heldout = False  # the one mapped patch is among them
  config.pretrain.sensor_dropout = 0.2  # so that the checkpoint also takes Sentinel-2 alone, and Sentinel-1 alone
  config.pretrain.tile2vec.max_distance_km = 3.0
  config.finetune.duration = common.duration(steps=120)
  config.finetune.batch_size = 4
  config.finetune.patience_epochs = 0
  config.finetune.validate_every_steps = 20
  config.finetune.sensor_dropout = 0.2
  config.evaluation.batch_size = 4
  config.evaluation.sample_patches = 1
  config.checkpoint.every_steps = 50
  config.log_every_steps = 5
  return config
