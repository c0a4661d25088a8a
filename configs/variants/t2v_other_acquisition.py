"""Neighbours from another pass of the satellite only, so that weather cannot tell them.

Everything else is configs/t2v_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/t2v_other_acquisition.py --workdir=runs/t2v_other_acquisition
"""

from configs import t2v_resnet18attn


def get_config(size: str = 'paper'):
  config = t2v_resnet18attn.get_config(size)
  config.name = 't2v_other_acquisition'
  config.pretrain.tile2vec.neighbour = 'other_acquisition'
  return config
