"""The paper's resnet18attn with no pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/none_resnet18attn.py --workdir=runs/none_resnet18attn
"""

from configs import common


def get_config():
  config = common.get_config()
  config.name = 'none_resnet18attn'
  config.encoder.name = 'resnet18attn'
  config.pretrain.objective = 'none'
  return config
