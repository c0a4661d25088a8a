"""The paper's resnet18 with no pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/none_resnet18.py --workdir=runs/none_resnet18
"""

from configs import common


def get_config():
  config = common.get_config()
  config.name = 'none_resnet18'
  config.encoder.name = 'resnet18'
  config.pretrain.objective = 'none'
  return config
