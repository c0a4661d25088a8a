"""The paper's resnet18attn with Tile2Vec pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/t2v_resnet18attn.py --workdir=runs/t2v_resnet18attn
"""

from configs import common


def get_config():
  config = common.get_config()
  config.name = 't2v_resnet18attn'
  config.encoder.name = 'resnet18attn'
  config.pretrain.objective = 'tile2vec'
  return config
