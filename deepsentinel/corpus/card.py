"""Reading a corpus folder: its card, its manifest, its patches."""

import hashlib
import json
import os
import pathlib
from typing import Any

import geopandas
import numpy as np

from deepsentinel import legend, sensors
from deepsentinel.corpus import manifest, patchfiles

FILE = 'corpus.json'


class Corpus:
  """A folder made by `python -m deepsentinel.corpus`.

  Attributes:
    path: the folder.
    card: corpus.json.
    spec: the sensor contract of its pixels.
    labelled: whether patches carry label maps.
    landcover: the legend of their land-cover map; empty where they have none.
    patch_px: side of a patch, pixels.
    synthetic: whether the pixels come from SyntheticEarth.
    mines: whether its patches are of mines and of background.
  Raises:
    ValueError: the folder is no corpus, or its card cannot be read.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    try:
      self.card: dict[str, Any] = json.loads((self.path / FILE).read_text())
    except FileNotFoundError:
      raise ValueError(
        f'{self.path} holds no {FILE}: it is no corpus. Sample one with '
        f'`python -m deepsentinel.corpus --config=configs/corpora/NAME.py --out={self.path}`.'
      ) from None
    except json.JSONDecodeError as e:
      raise ValueError(f'{self.path / FILE} is damaged ({e}). Restore it, or sample into another folder.') from e
    self.spec = sensors.SensorSpec.from_dict(self.card['spec'])
    self.labelled: bool = self.card['labelled']
    self.landcover = legend.map_classes(self.card.get('landcover', ()))
    self.patch_px: int = self.card['patch_px']
    self.synthetic: bool = self.card['synthetic']
    self.mines = bool(self.card['config'].get('mines', {}).get('polygons'))
    self._digests: dict[str, dict[str, str]] | None = None

  def manifest(self) -> geopandas.GeoDataFrame:
    """One row per patch, in order of `number`; columns in `manifest.COLUMNS` and `schema.SCALARS`."""
    return manifest.read(self.path)

  def read(self, patch_id: str) -> dict[str, np.ndarray]:
    """The pixels of a fetched patch, checked against the manifest.

    Args:
      patch_id: `id` of a row whose state is 'done'.
    Returns:
      's2' uint16 [H, W, C], 's1' int16 [H, W, C]; where labelled 'corine' uint8 [H, W], 'osm' uint16 [H, W] and, with
      a land-cover map, 'landcover' uint8 [H, W].
    Raises:
      ValueError: no such row, or a file that is gone or is not the one that was fetched.
    """
    if self._digests is None:
      done = self.manifest().query('state == "done"')
      fields = [field for field in manifest.FIELDS if f'sha256_{field}' in done]
      rows = zip(done['id'], done[[f'sha256_{field}' for field in fields]].to_numpy(), strict=True)
      self._digests = {i: dict(zip(fields, row, strict=True)) for i, row in rows}
    if patch_id not in self._digests:
      raise ValueError(f'{self.path}: the manifest has no fetched patch {patch_id!r}.')
    return {field: self._read(patch_id, field, sha) for field, sha in self._digests[patch_id].items() if sha}

  def _read(self, patch_id: str, field: str, sha256: str) -> np.ndarray:
    path = patchfiles.path_of(self.path, patch_id, field)
    mend = f'run `python -m deepsentinel.corpus --config=... --out={self.path}` again to fetch it'
    try:
      data = path.read_bytes()
    except FileNotFoundError:
      raise ValueError(f'{self.path}: manifest row {patch_id!r}: file {path.name} is gone: {mend}.') from None
    if hashlib.sha256(data).hexdigest() != sha256:
      raise ValueError(
        f'{self.path}: manifest row {patch_id!r}: file {path.name} ({len(data)} bytes) is not the one that was '
        f'fetched (its SHA-256 differs): {mend}.'
      )
    bands = patchfiles.decode(data)
    return np.moveaxis(bands, 0, -1) if field in ('s2', 's1') else bands[0]
