"""The paper's code: after the ramp the augmentations fall back to their least strength.

Everything else is configs/csf_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/csf_strength_falls_back.py --workdir=runs/csf_strength_falls_back
"""

from configs import csf_resnet18attn


def get_config(size: str = 'paper'):
  config = csf_resnet18attn.get_config(size)
  config.name = 'csf_strength_falls_back'
  config.pretrain.contrastive.augment.hold = False
  return config
