"""The paper's code: the triplet at every cell of the feature map, nothing pooled.

Everything else is configs/variants/t2v_triplet.py: compare with that.

python -m deepsentinel.main --config=configs/variants/t2v_per_cell.py --workdir=runs/t2v_per_cell
"""

from configs.variants import t2v_triplet


def get_config(size: str = 'paper'):
  config = t2v_triplet.get_config(size)
  config.name = 't2v_per_cell'
  config.pretrain.tile2vec.pooling = 'cell'
  return config
