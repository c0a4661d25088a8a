"""The paper's ResNet18-Attn with contrastive sensor fusion (CSF) pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/csf_resnet18attn.py --workdir=runs/csf_resnet18attn
python -m deepsentinel.main --config=configs/csf_resnet18attn.py:small --workdir=runs/csf_resnet18attn_small
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 'csf_resnet18attn'
  config.encoder.name = 'resnet18attn'
  config.pretrain.objective = 'contrastive'
  return config
