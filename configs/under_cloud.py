"""One checkpoint for Sentinel-1 alone, Sentinel-2 alone and both: in training, examples lose one of their sensors, or
the part of their optical pixels that a cloud mask would take, are seen through cloud that nobody masked, or lie in its
shadow.

What `python -m deepsentinel.evaluate clouds` measures. Fine-tuning's rate falls by half a cosine; everything else is
configs/t2v_resnet18attn.py.

python -m deepsentinel.main --config=configs/under_cloud.py --workdir=runs/under_cloud
"""

from configs import common, t2v_resnet18attn


def get_config(size: str = 'paper'):
  config = t2v_resnet18attn.get_config(size)
  config.name = 'under_cloud'
  config.pretrain.sensor_dropout = 0.3
  config.finetune.sensor_dropout = 0.5
  config.finetune.masked_cloud = 0.3
  config.finetune.painted_cloud = 0.4
  config.finetune.cloud_shadow = 0.6
  config.finetune.schedule = 'cosine'
  if size == 'small':
    # So many cases take longer to learn than one does: after 1,500 steps both together fell behind the radar alone.
    config.finetune.duration = common.duration(steps=4000)
    config.finetune.validate_every_steps = 200
  return config
