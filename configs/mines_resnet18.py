"""Coal mines on five bands (B2 B3 B4 VV VH) with the paper's values: a ResNet18 pretrained on them, one linear unit.

python -m deepsentinel.main --config=configs/mines_resnet18.py --workdir=runs/mines_resnet18
python -m deepsentinel.main --config=configs/mines_resnet18.py:small --workdir=runs/mines_resnet18_small

Instead of pretraining on the five bands, it can begin with an encoder of all bands that was trained with band dropout,
to which the other bands are then absent: --config.pretrain.from_checkpoint=RUN of configs/csf_resnet18.py.
"""

from configs import common


def get_config(size: str = 'paper'):
  config = common.get_config(size)
  config.name = 'mines_resnet18'
  config.encoder.name = 'resnet18'
  config.data.labelled = 'deepsentinel_mines'
  config.data.bands = 'B2,B3,B4,VV,VH'
  config.pretrain.objective = 'tile2vec'
  config.finetune.target = 'mine'
  config.finetune.duration = common.duration(epochs=5)
  config.finetune.batch_size = 256
  config.finetune.learning_rate = 1e-5
  config.finetune.patience_epochs = 0.0
  if size == 'small':
    config.data.labelled = 'deepsentinel_mines/demo'
    # A small encoder on few patches has taken one step of the paper's by the time it is done.
    config.finetune.duration = common.duration(steps=300)
    config.finetune.batch_size = 16
    config.finetune.learning_rate = 5e-4
    config.finetune.validate_every_steps = 25
  return config
