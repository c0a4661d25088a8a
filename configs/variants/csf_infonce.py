"""The original contrastive sensor fusion: symmetric InfoNCE and band dropout up to 0.66.

Everything else is configs/csf_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/csf_infonce.py --workdir=runs/csf_infonce
"""

from configs import csf_resnet18attn


def get_config(size: str = 'paper'):
  config = csf_resnet18attn.get_config(size)
  config.name = 'csf_infonce'
  config.pretrain.contrastive.loss = 'infonce'
  config.pretrain.contrastive.augment.band_dropout = (0.01, 0.66)
  return config
