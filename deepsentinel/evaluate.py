"""Probes a frozen encoder with the class lists of a labelled record set.

    python -m deepsentinel.evaluate --checkpoint=RUN --data=deepsentinel_labelled/custom --k=5 --out=knn.json

Every patch gets the classes that at least half of its k nearest neighbours have (leaving itself out). The same probe on
plain band statistics and the prior stand beside it: an embedding that does not beat them is worth nothing.
"""

import pathlib

from absl import flags

from deepsentinel import commandline, provenance

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'run directory, or one of its stages', required=True)
_DATA = flags.DEFINE_string('data', 'deepsentinel_labelled', 'prepared record set: a directory, or a name in data_dir')
_DATA_DIR = flags.DEFINE_string('data_dir', '', 'where prepared record sets lie; default TFDS_DATA_DIR')
_SPLITS = flags.DEFINE_list('splits', ['train', 'validation', 'test'], 'splits to pool')
_STAGE = flags.DEFINE_enum('stage', 'pretrain', ['pretrain', 'finetune'], 'whose encoder')
_K = flags.DEFINE_integer('k', 5, 'neighbours', lower_bound=1)
_OUT = flags.DEFINE_string('out', '', 'JSON file for the scores; printed in any case')

FEW = 'So few patches rank no method above another.'
_FEW_PATCHES = 200  # below it, one patch more or less moves an F1 by more than methods differ


def evaluate(checkpoint: str, data: str, data_dir: str, splits: list[str], stage: str, k: int) -> dict:
  """The multi-label k-nearest-neighbour scores of a checkpoint and of the band statistics.

  Returns:
    {'patches', 'classes', 'synthetic', 'caveat': '' or what the scores cannot say, 'embedding':
    probes.knn_multilabel(...), 'band_statistics': the same}.
  """
  import numpy as np

  from deepsentinel import curriculum
  from deepsentinel.data import records as records_lib
  from deepsentinel.evaluation import embeddings, probes
  from deepsentinel.train import checkpoint as checkpoint_lib

  trained = checkpoint_lib.load_trained(checkpoint, stage=stage)
  directory = records_lib.resolve(data, data_dir)
  unknown = sorted(set(splits) - set(curriculum.SPLITS))
  if unknown:
    raise ValueError(f'Unknown --splits {", ".join(unknown)}. Known: {", ".join(curriculum.SPLITS)}.')
  pooled = [records_lib.RecordSet(directory, split) for split in splits if split in records_lib.splits(directory)]
  if not pooled:
    raise ValueError(
      f'{directory} has no split {", ".join(splits)}; it has {", ".join(records_lib.splits(directory))}.'
    )
  tags = [[c for c in value.split(';') if c] for records in pooled for value in records.table['classes']]
  if not any(tags):
    raise ValueError(f'{directory} has no class lists (column "classes"); sample a corpus from a source that has them.')
  matrix, names = probes.tag_matrix(tags)
  vectors = np.concatenate([embeddings.patch_embeddings(trained, records) for records in pooled])
  plain = np.concatenate([embeddings.band_features(records) for records in pooled])
  return {
    'patches': len(matrix),
    'classes': names,
    'synthetic': pooled[0].synthetic,
    'caveat': FEW if len(matrix) < _FEW_PATCHES else '',
    'embedding': probes.knn_multilabel(vectors, matrix, k=k),
    'band_statistics': probes.knn_multilabel(plain, matrix, k=k),
  }


def table(scores: dict) -> str:
  """The scores as text, one row a method."""
  rows = [('embedding', scores['embedding']), ('band statistics', scores['band_statistics'])]
  rows.append(('prior', scores['embedding']['prior']))
  lines = [f'{"":16} {"micro F1":>9} {"macro F1":>9} {"mAP":>9}']
  for name, row in rows:
    lines.append(f'{name:16} {row["micro_f1"]:9.3f} {row["macro_f1"]:9.3f} {row["mean_average_precision"]:9.3f}')
  where = 'SyntheticEarth, a simulated world' if scores['synthetic'] else 'real imagery'
  lines.append(f'{scores["patches"]} patches of {where}, {len(scores["classes"])} classes, leave one out')
  if scores['caveat']:
    lines.append(scores['caveat'])
  return '\n'.join(lines)


def main(_: list[str]) -> None:
  scores = evaluate(_CHECKPOINT.value, _DATA.value, _DATA_DIR.value, _SPLITS.value, _STAGE.value, _K.value)
  print(table(scores))
  if _OUT.value:
    pathlib.Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
    provenance.write_json(pathlib.Path(_OUT.value), scores)


if __name__ == '__main__':
  commandline.run(main)
