"""The paper's loss: the triplet with a margin of 0.1.

Where neighbours are hardly more alike than distant patches it is smallest for an encoder that tells nothing apart (see
docs/findings.md). Everything else is configs/t2v_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/t2v_triplet.py --workdir=runs/t2v_triplet
"""

from configs import t2v_resnet18attn


def get_config(size: str = 'paper'):
  config = t2v_resnet18attn.get_config(size)
  config.name = 't2v_triplet'
  config.pretrain.tile2vec.loss = 'triplet'
  return config
