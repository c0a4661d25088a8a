"""The paper's sentence taken literally: the softmax of the distance draws the farthest neighbour.

Everything else is configs/t2v_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/t2v_literal_neighbours.py --workdir=runs/t2v_literal_neighbours
"""

from configs import t2v_resnet18attn


def get_config(size: str = 'paper'):
  config = t2v_resnet18attn.get_config(size)
  config.name = 't2v_literal_neighbours'
  config.pretrain.tile2vec.neighbour = 'literal'
  return config
