"""The paper's ResNet18-Attn without pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/none_resnet18attn.py --workdir=runs/none_resnet18attn
python -m deepsentinel.main --config=configs/none_resnet18attn.py:small --workdir=runs/none_resnet18attn_small
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 'none_resnet18attn'
  config.encoder.name = 'resnet18attn'
  config.pretrain.objective = 'none'
  return config
