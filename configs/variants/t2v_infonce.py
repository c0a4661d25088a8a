"""InfoNCE over the batch in place of the triplet.

Where neighbours are hardly more alike than distant patches, as over a region sampled in all seasons, the triplet is
smallest for an encoder that tells nothing apart; this loss is not. Everything else is configs/t2v_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/t2v_infonce.py --workdir=runs/t2v_infonce
"""

from configs import t2v_resnet18attn


def get_config(size: str = 'paper'):
  config = t2v_resnet18attn.get_config(size)
  config.name = 't2v_infonce'
  config.pretrain.tile2vec.loss = 'infonce'
  return config
