"""What trained models see of the same places under more and more cloud, by either sensor and by both."""

import json
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from deepsentinel import legend, provenance, sensors
from deepsentinel.corpus.pool import Pool
from deepsentinel.data import batches
from deepsentinel.evaluation import cloudseries, metrics, samples
from deepsentinel.evaluation.robustness import SHARES, VIEWS, Measured
from deepsentinel.train import inputs
from deepsentinel.train.trained import Trained

_CHUNK = 8  # patches between two saves


def require_models(models: Sequence[Trained], records) -> legend.Target:
  """What the models predict; ValueError where they cannot be compared so."""
  for model in models:
    where = model.directory
    if not model.classes or legend.target_of(model.config['finetune']).is_scene:
      raise ValueError(
        f'{where} does not predict land cover pixel by pixel; pass a run that was fine-tuned on it (configs/*.py).'
      )
    if len(model.spec.sensors) < 2:
      raise ValueError(f'{where} takes {",".join(model.bands)}: both sensors are needed to compare them under cloud.')
    model.spec.require(records.spec)
    trained_for = [set(subset) for subset in model.subsets]
    for alone in (model.spec.s1_bands, model.spec.s2_bands):
      if set(alone) not in trained_for:
        raise ValueError(
          f'{where} was not trained to do with {",".join(alone)} alone. Train one with '
          '--config=configs/under_cloud.py, or with --config.finetune.sensor_dropout=0.5.'
        )
  targets = {legend.target_of(m.config['finetune']).name for m in models}
  if len(targets) > 1:
    raise ValueError(f'The checkpoints predict {" and ".join(sorted(targets))}; compare those of one target.')
  seen = [model.sha256 for model in models]
  for number, model in enumerate(models):
    if model.sha256 in seen[:number]:
      raise ValueError(
        f'{model.directory} has the weights of another checkpoint that --checkpoint names, so an interval over both '
        'would be of one alone. Name each once.'
      )
  target = legend.target_of(models[0].config['finetune'])
  if target.field not in records.fields:
    raise ValueError(
      f'{records.directory} has no {target.field!r} maps, which {target.name} is scored by. Pass --data with records '
      'that have them, or a checkpoint of another target.'
    )
  return target


def measure(
  models: Sequence[Trained],
  records,
  out: pathlib.Path,
  *,
  shares: tuple[float, ...] = SHARES,
  patches: int = 0,
  workers: int = 2,
  progress: bool = True,
) -> Measured:
  """Renders every patch at every cloud share, and lets every model predict it by every view.

  What is done lies in `out`/clouds and is not done again.

  Args:
    models: M checkpoints of one target, trained for either sensor alone.
    records: a RecordSet of a source that renders (SyntheticEarth).
    out: folder.
    shares: S cloud shares, the first 0.
    patches: only so many, evenly spread; 0: all.
    workers: processes that render.
    progress: shows a bar.
  Raises:
    ValueError: models or records that cannot be measured so, or records of another version of the source.
  """
  target = require_models(models, records)
  found = ', '.join(f'{share:g}' for share in shares)
  if not shares or shares[0] != 0 or any(not 0 <= share <= 1 for share in shares):
    raise ValueError(
      f'Cloud shares lie in 0..1 and start at 0, which the others are set against; found {found}. Pass '
      '--shares=0,0.5,1.'
    )
  cloudseries.require(records.card, str(records.directory))
  folder = out / 'clouds'
  numbers = samples.choose(patches or len(records), len(records))
  chunks = [numbers[i : i + _CHUNK] for i in range(0, len(numbers), _CHUNK)]
  everywhere, bands = cloudseries.places(records), records.spec.s2_bands
  _begin(
    folder,
    {
      'checkpoints': [m.sha256 for m in models],
      'shares': list(shares),
      'patches': [str(i) for i in records.table['id'].iloc[numbers]],
      'data': records.card['name'],
      'records_sha256': records.fingerprint,
    },
  )
  cloudseries.scene_of(records.card['source'], everywhere[numbers[0]])  # it has those of all patches, or of none
  seers = [_Seer(model, records.spec, records.patch_px) for model in models]
  bar = tqdm.tqdm(total=len(numbers), desc='Clouds', unit=' patches', disable=not progress)
  with bar, Pool(workers) as pool:
    for k, chunk in enumerate(chunks):
      path = folder / f'part_{k:05d}.npz'
      if not path.exists():
        calls = [(records.card['source'], everywhere[i], bands, shares, i == chunk[0]) for i in chunk]
        series = {one.id: one for one in pool.results(cloudseries.render, calls)}
        rows = [_patch(seers, target, records, i, series[everywhere[i].id]) for i in chunk]
        provenance.write_npz(path, {key: np.stack([row[key] for row in rows]) for key in rows[0]})
      bar.update(len(chunk))
  return _collected(folder, len(chunks))


def _begin(folder: pathlib.Path, job: dict[str, Any]) -> None:
  journal = folder / 'job.json'
  try:
    begun = json.loads(journal.read_text()) if journal.exists() else job
  except ValueError as error:
    raise ValueError(f'{journal} is damaged ({error}). Remove {folder}, or pass another --out.') from error
  if begun != job:
    raise ValueError(
      f'{folder.parent} holds another comparison: other checkpoints, records, patches or cloud shares. Pass another '
      '--out, or remove that folder.'
    )
  folder.mkdir(parents=True, exist_ok=True)
  provenance.write_json(journal, job)


def _collected(folder: pathlib.Path, chunks: int) -> Measured:
  parts = []
  for k in range(chunks):
    path = folder / f'part_{k:05d}.npz'
    try:
      with np.load(path) as file:
        parts.append({name: file[name] for name in file.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
      raise ValueError(f'{path} cannot be read ({error}). Remove it and run the same command again.') from error
  joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
  clear = joined['clear'].astype(np.float64)  # [P, M, E], unit vectors; where models differ in E, padded with 0
  total, count = clear.sum(0), len(clear)
  # Sum over all pairs of different patches: |sum of vectors|^2 less the P squares, which are 1 each.
  apart = ((total**2).sum(-1) - (clear**2).sum((0, 2))) / max(count * (count - 1), 1)
  return Measured(
    [str(i) for i in joined['id']],
    joined['confusion'].astype(np.int64),
    joined['reference'].astype(np.int64),
    joined['kept'].astype(np.float64),
    apart,
  )


def _views(s2: np.ndarray, s1: np.ndarray, cloud: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(s2, s1) of every view but the first, in the order of VIEWS; s2 [S, H, W, C2], s1 [S, H, W, C1]."""
  no_radar = np.full_like(s1, sensors.S1_NODATA)
  told = np.where(cloud[..., None], s2.dtype.type(sensors.S2_NODATA), s2)
  yield s2, no_radar
  yield s2, s1
  yield told, no_radar
  yield told, s1


class _Seer:
  """A model that answers for whole patches."""

  def __init__(self, model: Trained, spec: sensors.SensorSpec, patch_px: int):
    self.model, self.crop_px = model, min(model.crop_px, patch_px)
    self.patch_px = patch_px
    self.starts, _ = batches.tiling(patch_px, self.crop_px)
    self._prepare = model.prepare(spec)

  def see(self, s2: np.ndarray, s1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes int [N, H, W] and unit embeddings [N, E] of N patches in storage units [N, H, W, C]."""
    side, corners = self.crop_px, [(r, c) for r in self.starts for c in self.starts]
    cut = {
      field: np.concatenate([pixels[:, r : r + side, c : c + side] for r, c in corners])[:, None]
      for field, pixels in (('s2', s2), ('s1', s1))
    }
    ready = inputs.as_stored(self._prepare, cut)
    images, present = ready['images'][:, 0], ready['present'][:, 0]
    crops = np.asarray(self.model.predict(images, present)).reshape(len(corners), len(s2), side, side)
    classes = np.zeros((len(s2), self.patch_px, self.patch_px), np.int64)
    for (r, c), crop in reversed(list(zip(corners, crops, strict=True))):  # where crops overlap, the earlier one counts
      classes[:, r : r + side, c : c + side] = crop
    embedding = np.asarray(self.model.encode(images, present).embedding, np.float64)
    mean = embedding.reshape(len(corners), len(s2), -1).mean(0)
    return classes, mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def _patch(
  seers: Sequence[_Seer], target: legend.Target, records, number: int, series: cloudseries.Series
) -> dict[str, np.ndarray]:
  """One patch's row of every array of `Measured`, and 'clear', its embeddings without a cloud."""
  if series.weather is not None and not np.array_equal(series.weather, records.read('s2', [number])[0]):
    raise ValueError(
      f'Patch {series.id} looks otherwise now than when it was sampled: the records were made by another version of '
      f'{records.card["source"]["name"]}. Sample the corpus and build the records again.'
    )
  label = target.lookup[records.read(target.field, [number])[0]]
  s1 = records.read('s1', [number])
  count = len(series.s2)
  nothing = np.full((1, *series.s2.shape[1:]), sensors.S2_NODATA, series.s2.dtype)
  views = list(_views(series.s2, np.repeat(s1, count, 0), series.cloud))
  s2_all = np.concatenate([nothing, *(s2 for s2, _ in views)])
  s1_all = np.concatenate([s1, *(radar for _, radar in views)])
  k = len(target.classes)
  confusion = np.zeros((len(seers), count, len(VIEWS), 2, k, k), np.int32)
  reference = np.zeros((len(seers), count, 2, k, k), np.int32)
  kept, clear = np.zeros((len(seers), count, len(VIEWS)), np.float32), []
  for m, seer in enumerate(seers):
    classes, vectors = seer.see(s2_all, s1_all)
    # [1 + 4 S, ...] -> [V, S, ...]: radar alone is the same under any cloud
    by_view = [np.repeat(classes[:1], count, 0), *np.split(classes[1:], len(VIEWS) - 1)]
    vectors_by_view = [np.repeat(vectors[:1], count, 0), *np.split(vectors[1:], len(VIEWS) - 1)]
    best, best_vector = by_view[VIEWS.index('fused')][0], vectors_by_view[VIEWS.index('fused')][0]
    for s in range(count):
      for sky, where in enumerate((~series.cloud[s], series.cloud[s])):
        under = np.where(where, label, metrics.IGNORED)
        reference[m, s, sky] = metrics.confusion_matrix(under, best, k)
        for v in range(len(VIEWS)):
          confusion[m, s, v, sky] = metrics.confusion_matrix(under, by_view[v][s], k)
      kept[m, s] = [float(view[s] @ best_vector) for view in vectors_by_view]
    clear.append(best_vector)
  widest = max(len(vector) for vector in clear)
  padded = np.stack([np.pad(vector, (0, widest - len(vector))) for vector in clear]).astype(np.float32)
  return {
    'id': np.asarray(series.id), 'confusion': confusion, 'reference': reference, 'kept': kept, 'clear': padded,
  }  # fmt: skip
