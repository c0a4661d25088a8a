"""The paper's ResNet34 without pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/none_resnet34.py --workdir=runs/none_resnet34
python -m deepsentinel.main --config=configs/none_resnet34.py:small --workdir=runs/none_resnet34_small
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 'none_resnet34'
  config.encoder.name = 'resnet34'
  config.pretrain.objective = 'none'
  return config
