"""The paper's ResNet34 with Tile2Vec pretraining, then land cover (CORINE level 1).

Its loss is InfoNCE; the paper's triplet is configs/variants/t2v_triplet.py.

python -m deepsentinel.main --config=configs/t2v_resnet34.py --workdir=runs/t2v_resnet34
python -m deepsentinel.main --config=configs/t2v_resnet34.py:small --workdir=runs/t2v_resnet34_small
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 't2v_resnet34'
  config.encoder.name = 'resnet34'
  config.pretrain.objective = 'tile2vec'
  return config
