"""The paper's ResNet18 without pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/none_resnet18.py --workdir=runs/none_resnet18
python -m deepsentinel.main --config=configs/none_resnet18.py:small --workdir=runs/none_resnet18_small
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 'none_resnet18'
  config.encoder.name = 'resnet18'
  config.pretrain.objective = 'none'
  return config
