"""The paper's ResNet34 with contrastive sensor fusion (CSF) pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/csf_resnet34.py --workdir=runs/csf_resnet34
python -m deepsentinel.main --config=configs/csf_resnet34.py:small --workdir=runs/csf_resnet34_small
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 'csf_resnet34'
  config.encoder.name = 'resnet34'
  config.pretrain.objective = 'contrastive'
  return config
