"""One vector a patch: a frozen encoder's embedding, and the plain band statistics that it has to beat."""

import functools

import jax
import numpy as np
import tqdm

from deepsentinel import sensors
from deepsentinel.data import batches
from deepsentinel.data.records import RecordSet
from deepsentinel.train import inputs
from deepsentinel.train.trained import Trained


def patch_embeddings(
  trained: Trained,
  records: RecordSet,
  *,
  index: np.ndarray | None = None,
  batch_size: int = 32,
  progress: bool = True,
) -> np.ndarray:
  """The mean embedding of the fixed crops that cover each patch.

  Args:
    trained: from `train.checkpoint.load_trained`.
    records: whose sensor contract the checkpoint accepts.
    index: int [N], numbers of the records that are wanted, each once; None: all.
    batch_size: crops in the encoder at once.
    progress: shows a bar.
  Returns:
    float32 [N, E], in the order of `index`.
  Raises:
    ValueError: the checkpoint was not trained for these bands (`SensorSpec.require`).
  """
  trained.spec.require(records.spec, subsets=trained.subsets)
  prepare = jax.jit(
    functools.partial(
      inputs.Prepare(
        records=records.spec,
        bands=trained.bands,
        mean=tuple(trained.statistics['mean']),
        std=tuple(trained.statistics['std']),
        seed=0,
      ),
      train=False,
    )
  )
  crop_px = min(trained.crop_px, records.patch_px)
  wanted = np.arange(len(records)) if index is None else np.asarray(index)
  total = len(wanted) * batches.crops_per_patch(records.patch_px, crop_px)
  rows: dict[int, list[np.ndarray]] = {}
  fields = [f for f in ('s2', 's1') if f in records.fields]
  with tqdm.tqdm(total=total, desc='Embedding', unit=' crops', disable=not progress) as bar:
    for batch in batches.evaluation_batches(
      records, batch_size=batch_size, crop_px=crop_px, index=index, fields=fields
    ):
      prepared = prepare({f: batch[f] for f in fields}, 0)
      output = trained.encode(prepared['images'][:, 0], prepared['present'][:, 0])
      embedding = np.asarray(output.embedding, np.float64)[batch['mask']]
      for number, vector in zip(batch['index'][batch['mask'], 0], embedding, strict=True):
        rows.setdefault(int(number), []).append(vector)
      bar.update(len(embedding))
  return np.stack([np.mean(rows[i], axis=0) for i in wanted.tolist()]).astype(np.float32)


def band_features(*sets: RecordSet, bands: tuple[str, ...] = (), crop_px: int = 0) -> np.ndarray:
  """Mean and standard deviation of every band over a patch's valid pixels: the baseline without a network.

  Args:
    sets: record sets of one sensor contract, one after the other.
    bands: which; all that the records hold where empty.
    crop_px: of the crop in the patch's middle that is looked at; 0: all of it.
  Returns:
    float32 [N, 2 C], each column standardised over the patches; 0 where a patch has no valid pixel of a band.
  """
  crop_px = crop_px or sets[0].patch_px
  start = [(sets[0].patch_px - crop_px) // 2]
  indices = sets[0].spec.indices(bands or sets[0].spec.bands)
  parts = []
  for field, nodata, index in zip(('s2', 's1'), (sensors.S2_NODATA, sensors.S1_NODATA), indices, strict=True):
    if not index:
      continue
    rows = []
    for records, i in ((one, i) for one in sets for i in range(len(one))):
      pixels = records.read_crops(field, [i], start, start, crop_px)[0][..., index].reshape(-1, len(index))
      masked = np.ma.masked_equal(pixels, nodata).astype(np.float64)
      rows.append(np.concatenate([masked.mean(0).filled(np.nan), masked.std(0).filled(np.nan)]))
    parts.append(np.array(rows))
  features = np.concatenate(parts, 1)
  centred = features - np.nanmean(features, 0)
  return np.nan_to_num(centred / np.maximum(np.nanstd(features, 0), 1e-12)).astype(np.float32)
