"""The paper's resnet34 with no pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/none_resnet34.py --workdir=runs/none_resnet34
"""

from configs import common


def get_config():
  config = common.get_config()
  config.name = 'none_resnet34'
  config.encoder.name = 'resnet34'
  config.pretrain.objective = 'none'
  return config
