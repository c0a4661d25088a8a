"""The paper's code: pixels without a label are a class, trained and scored, which makes seven.

Everything else is configs/none_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/none_with_nodata.py --workdir=runs/none_with_nodata
"""

from configs import none_resnet18attn


def get_config(size: str = 'paper'):
  config = none_resnet18attn.get_config(size)
  config.name = 'none_with_nodata'
  config.finetune.target = 'corine_level1_nodata'
  return config
