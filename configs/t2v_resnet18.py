"""The paper's ResNet18 with Tile2Vec pretraining, then land cover (CORINE level 1).

Its loss is InfoNCE; the paper's triplet is configs/variants/t2v_triplet.py.

python -m deepsentinel.main --config=configs/t2v_resnet18.py --workdir=runs/t2v_resnet18
python -m deepsentinel.main --config=configs/t2v_resnet18.py:small --workdir=runs/t2v_resnet18_small
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 't2v_resnet18'
  config.encoder.name = 'resnet18'
  config.pretrain.objective = 'tile2vec'
  return config
