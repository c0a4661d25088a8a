"""No pretraining, and the arithmetic of Tile2Vec's pretraining and fine-tuning together spent on the labels.

It says what pretraining gives beyond more steps; a triplet counts as three crops. At the paper's size, where
fine-tuning counts epochs, the number is that of all labels: with --config.finetune.label_fraction=F pass
--config.finetune.duration.examples=N, N = 6,000,000 + 1,400,000 F. It never stops early. Everything else is
configs/none_resnet18attn.py.

python -m deepsentinel.main --config=configs/variants/none_total_compute.py --workdir=runs/none_total_compute
"""

from configs import common, none_resnet18attn


def get_config(size: str = 'paper'):
  config = none_resnet18attn.get_config(size)
  config.name = 'none_total_compute'
  if size == 'paper':  # 20 epochs of 100,000 triplets, then 200 of the 7,000 patches in the train split
    config.finetune.duration = common.duration(examples=7_400_000)
  else:  # both stages have one batch size
    config.finetune.duration = common.duration(
      steps=3 * config.pretrain.duration.steps + config.finetune.duration.steps
    )
  config.finetune.patience_epochs = 0.0
  return config
