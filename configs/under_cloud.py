"""One checkpoint for Sentinel-1 alone, Sentinel-2 alone and both: in training, examples lose one of their sensors, or
the part of their optical pixels that a cloud mask would take, or are seen through cloud that nobody masked.

What `python -m deepsentinel.evaluate clouds` measures. Everything else is configs/t2v_resnet18attn.py.

python -m deepsentinel.main --config=configs/under_cloud.py --workdir=runs/under_cloud
"""

from configs import t2v_resnet18attn


def get_config(size: str = 'paper'):
  config = t2v_resnet18attn.get_config(size)
  config.name = 'under_cloud'
  config.pretrain.sensor_dropout = 0.3
  config.finetune.sensor_dropout = 0.5
  config.finetune.masked_cloud = 0.3
  config.finetune.painted_cloud = 0.4
  return config
