"""The paper's resnet18 with Tile2Vec pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/t2v_resnet18.py --workdir=runs/t2v_resnet18
"""

from configs import common


def get_config():
  config = common.get_config()
  config.name = 't2v_resnet18'
  config.encoder.name = 'resnet18'
  config.pretrain.objective = 'tile2vec'
  return config
