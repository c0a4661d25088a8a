"""The main job at the size of a laptop: the small twin of ResNet18-Attn, Tile2Vec, then land cover.

python -m deepsentinel.main --config=configs/quickstart.py --workdir=runs/quickstart_t2v
"""

from configs import common, t2v_resnet18attn


def get_config():
  config = t2v_resnet18attn.get_config('small')
  config.name = 'quickstart'
  config.pretrain.duration = common.duration(steps=400)
  config.finetune.duration = common.duration(steps=250)
  config.finetune.validate_every_steps = 50
  config.log_every_steps = 5
  config.evaluation.batch_size = 32
  config.evaluation.random_forest = True
  return config
