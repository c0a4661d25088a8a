"""The paper's code: the triplet at every cell of the feature map, nothing pooled.

Everything else is configs/t2v_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/t2v_per_cell.py --workdir=runs/t2v_per_cell
"""

from configs import t2v_resnet18attn


def get_config(size: str = 'paper'):
  config = t2v_resnet18attn.get_config(size)
  config.name = 't2v_per_cell'
  config.pretrain.tile2vec.loss = 'triplet'  # InfoNCE compares whole patches
  config.pretrain.tile2vec.pooling = 'cell'
  return config
