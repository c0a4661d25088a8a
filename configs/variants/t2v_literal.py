"""The paper's code: literal neighbours and a triplet per cell, both at once.

Everything else is configs/t2v_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/t2v_literal.py --workdir=runs/t2v_literal
"""

from configs import t2v_resnet18attn


def get_config(size: str = 'paper'):
  config = t2v_resnet18attn.get_config(size)
  config.name = 't2v_literal'
  config.pretrain.tile2vec.neighbour = 'literal'
  config.pretrain.tile2vec.loss = 'triplet'  # InfoNCE compares whole patches
  config.pretrain.tile2vec.pooling = 'cell'
  return config
