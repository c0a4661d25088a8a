"""The main job at the size of a laptop: a small twin of ResNet18-Attn, Tile2Vec, then land cover.

python -m deepsentinel.main --config=configs/quickstart.py --workdir=runs/quickstart_t2v
"""

from configs import common


def get_config():
  config = common.get_config()
  config.name = 'quickstart'
  config.encoder.name = 'resnet18attn'
  config.encoder.width = 16
  config.data.unlabelled = 'deepsentinel_unlabelled/demo'
  config.data.labelled = 'deepsentinel_labelled/demo'
  config.pretrain.objective = 'tile2vec'
  config.pretrain.duration = common.duration(steps=100)
  config.pretrain.batch_size = 16
  config.finetune.duration = common.duration(steps=100)
  config.finetune.batch_size = 16
  config.finetune.patience_epochs = 0
  config.finetune.validate_every_steps = 20
  config.evaluation.batch_size = 32
  config.evaluation.random_forest = True
  config.checkpoint.every_steps = 50
  config.log_every_steps = 5
  return config
