"""Symmetric InfoNCE instead of the paper's triplet, all else the paper's.

Everything else is configs/csf_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/csf_infonce_loss.py --workdir=runs/csf_infonce_loss
"""

from configs import csf_resnet18attn


def get_config(size: str = 'paper'):
  config = csf_resnet18attn.get_config(size)
  config.name = 'csf_infonce_loss'
  config.pretrain.contrastive.loss = 'infonce'
  return config
