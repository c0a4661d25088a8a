"""The paper's ResNet18-Attn with Tile2Vec pretraining, then land cover (CORINE level 1).

Its loss is InfoNCE; the paper's triplet is configs/variants/t2v_triplet.py.

python -m deepsentinel.main --config=configs/t2v_resnet18attn.py --workdir=runs/t2v_resnet18attn
python -m deepsentinel.main --config=configs/t2v_resnet18attn.py:small --workdir=runs/t2v_resnet18attn_small
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 't2v_resnet18attn'
  config.encoder.name = 'resnet18attn'
  config.pretrain.objective = 'tile2vec'
  return config
