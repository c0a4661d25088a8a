"""The paper's code: no KL term, and the mean of the latent decoded.

Everything else is configs/vae_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/vae_autoencoder.py --workdir=runs/vae_autoencoder
"""

from configs import vae_resnet18attn


def get_config(size: str = 'paper'):
  config = vae_resnet18attn.get_config(size)
  config.name = 'vae_autoencoder'
  config.pretrain.vae.kl_weight = 0.0
  config.pretrain.vae.sample = False
  return config
