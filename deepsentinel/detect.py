r"""Maps what a few examples show.

    python -m deepsentinel.detect --embedding=maps/synthetic --examples=examples.gpkg --out=detections

The examples are points or polygons in a vector file, in any CRS, with a column `label`: 1 (positive) for what is looked
for, 0 (negative) for what is not. In place of a file, --positive=LON,LAT and --negative=LON,LAT, repeated, name points.
One of each is enough to begin with. Logistic regression on the vectors of their cells; every feature is one example,
however many cells it holds, and those of a kind whose vectors are means of the same cells (within two of each other,
unless --mean_cells says otherwise) are one together.

Writes detection.tif (probability, and as uncertainty its spread over refits to resampled examples), detection.png,
detections.gpkg (the areas detected) and detection.json (how well examples that were left out are told apart, and what
so few cannot say).
"""

import pathlib

from absl import flags

from deepsentinel import commandline

_EMBEDDING = flags.DEFINE_string('embedding', None, 'folder that deepsentinel.embed wrote, or its embedding.tif')
_EXAMPLES = flags.DEFINE_string('examples', '', 'vector file with points or polygons')
_POSITIVE = flags.DEFINE_multi_string('positive', [], 'LON,LAT of an example of what is looked for; may be repeated')
_NEGATIVE = flags.DEFINE_multi_string('negative', [], 'LON,LAT of an example of what is not; may be repeated')
_LAYER = flags.DEFINE_string('layer', '', 'layer of --examples, where it has several')
_LABEL = flags.DEFINE_string('label', 'label', 'column that is 1 or positive, 0 or negative')
_OUT = flags.DEFINE_string('out', None, 'folder for the results')
_THRESHOLD = flags.DEFINE_float('threshold', 0.5, 'probability from which a cell is detected', 0, 1)
_MIN_CELLS = flags.DEFINE_integer('min_cells', 1, 'cells of the smallest area that is kept', lower_bound=1)
_MEAN_CELLS = flags.DEFINE_integer('mean_cells', 3, 'a cell stands for the mean of so many cells a side; 1: of itself')
_REFITS = flags.DEFINE_integer('refits', 100, 'refits to resampled examples, for the uncertainty', lower_bound=2)
_PROGRESS = flags.DEFINE_bool('progress', True, 'show progress bars')


def _examples(there):
  """(the examples, what tells them from others)."""
  from deepsentinel.embedding import examples, queries

  points = {'positive': _POSITIVE.value, 'negative': _NEGATIVE.value}
  if not _EXAMPLES.value:
    places = [[queries.parse_point(text, f'--{name}') for text in given] for name, given in points.items()]
    return examples.of_points(*places, there), points
  found = examples.read(_EXAMPLES.value, _LAYER.value, _LABEL.value, there)
  file = str(pathlib.Path(_EXAMPLES.value).resolve())
  return found, {'examples': file, 'sha256': found.sha256, 'layer': _LAYER.value, 'label': _LABEL.value}


def main(_: list[str]) -> None:
  from deepsentinel.embedding import cells, detection

  if bool(_EXAMPLES.value) == bool(_POSITIVE.value or _NEGATIVE.value):
    raise ValueError('Pass the examples as --examples=FILE, or as --positive=LON,LAT and --negative=LON,LAT.')
  there = cells.open_map(str(_EMBEDDING.value), _MEAN_CELLS.value)
  found, asked = _examples(there)
  out = pathlib.Path(str(_OUT.value))
  about, again = detection.detect(
    there, found, out, asked=asked, threshold=_THRESHOLD.value, min_cells=_MIN_CELLS.value, refits=_REFITS.value,
    progress=_PROGRESS.value,
  )  # fmt: skip
  for name, count in about['examples'].items():
    print(f'{name}: {count["groups"]} examples, {count["cells"]} cells')
  auc, accuracy = about['score']['auc'], about['score']['balanced_accuracy']
  if auc is not None:
    print(f'left out in pairs ({about["score"]["pairs"]}): AUC {auc:.3f}, balanced accuracy {accuracy:.3f}')
  detected = about['detected']
  print(f'detected: {detected["areas"]} areas, {detected["km2"]:.2f} of {detected["of_km2"]:.2f} km2')
  for caveat in about['caveats']:
    print(caveat)
  for name in ('detection.tif', 'detection.png', 'detections.gpkg', 'detection.json'):
    print(out / name)
  if again:
    print('Nothing was left to do.')


if __name__ == '__main__':
  commandline.run(main, required=['embedding', 'out'], resumes=True)
