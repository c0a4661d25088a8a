"""Measures quality against cloud cover: by Sentinel-1 alone, Sentinel-2 alone and both, from one checkpoint.

    python -m deepsentinel.evaluate clouds --checkpoint=RUN,RUN,RUN --data=deepsentinel_labelled/demo --out=clouds

The same test patches, with the same labels, are rendered again at cloud shares of 0, 0.2 to 1 by SyntheticEarth, which
alone can do that. Skill is 0 for a map of the majority class and 1 for what both sensors give without a cloud. Pixels
under cloud and under clear sky are scored apart, and the model is told which are cloud (their optical pixels are given
as missing) or not told. Also: how much of a patch's embedding is left. Several checkpoints, such as those of three
seeds, are averaged.

The checkpoint has to be trained for either sensor alone: --config=configs/under_cloud.py. Under --out:
robustness.json, robustness.csv, robustness.png. The same command goes on where an interrupted one was.
"""

import pathlib

from absl import flags

_CHECKPOINT = flags.DEFINE_multi_string(
  'checkpoint', None, 'fine-tuned run directory; several separated by commas, or the flag repeated', required=True
)
_DATA = flags.DEFINE_string('data', 'deepsentinel_labelled', 'prepared record set: a directory, or a name in data_dir')
_DATA_DIR = flags.DEFINE_string('data_dir', '', 'where prepared record sets lie; default TFDS_DATA_DIR')
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'validation', 'test'], 'whose patches')
_SHARES = flags.DEFINE_list('shares', ['0', '0.2', '0.4', '0.6', '0.8', '1'], 'cloud shares, the first 0')
_PATCHES = flags.DEFINE_integer('patches', 0, 'only so many patches, evenly spread; 0: all', lower_bound=0)
_WORKERS = flags.DEFINE_integer('workers', 2, 'processes that render', lower_bound=1)
_OUT = flags.DEFINE_string('out', None, 'folder for the results', required=True)
_PROGRESS = flags.DEFINE_bool('progress', True, 'show progress bars')


def main(_: list[str]) -> None:
  from deepsentinel.data import records as records_lib
  from deepsentinel.evaluate import cloudresults, output
  from deepsentinel.train import checkpoint

  try:
    shares = tuple(sorted({float(share) for share in _SHARES.value}))
  except ValueError:
    raise ValueError(
      f'--shares={",".join(_SHARES.value)} are no numbers from 0 to 1, such as --shares=0,0.5,1.'
    ) from None
  models = [checkpoint.load_trained(name, stage='finetune') for name in output.split_names(_CHECKPOINT.value)]
  directory = records_lib.resolve(_DATA.value, _DATA_DIR.value)
  train = records_lib.RecordSet(directory, 'train')
  if not train.labelled:
    raise ValueError(
      f'{directory} holds no labels to score by. Pass --data with records that '
      '`tfds build tfds_builders/deepsentinel_labelled` made.'
    )
  records = train if _SPLIT.value == 'train' else records_lib.RecordSet(directory, _SPLIT.value)
  out = pathlib.Path(_OUT.value)
  result = cloudresults.run(
    models, records, train, out, shares=shares, patches=_PATCHES.value, workers=_WORKERS.value,
    progress=_PROGRESS.value,
  )  # fmt: skip
  print(cloudresults.table(result))
  print(out / 'robustness.png')
