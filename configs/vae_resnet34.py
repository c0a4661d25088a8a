"""The paper's ResNet34 with VAE pretraining, then land cover (CORINE level 1).

python -m deepsentinel.main --config=configs/vae_resnet34.py --workdir=runs/vae_resnet34
python -m deepsentinel.main --config=configs/vae_resnet34.py:small --workdir=runs/vae_resnet34_small
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 'vae_resnet34'
  config.encoder.name = 'resnet34'
  config.pretrain.objective = 'vae'
  return config
