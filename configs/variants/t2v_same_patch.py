"""The neighbour is a second crop of the same patch.

Everything else is configs/t2v_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/t2v_same_patch.py --workdir=runs/t2v_same_patch
"""

from configs import t2v_resnet18attn


def get_config(size: str = 'paper'):
  config = t2v_resnet18attn.get_config(size)
  config.name = 't2v_same_patch'
  config.pretrain.tile2vec.neighbour = 'same_patch'
  return config
