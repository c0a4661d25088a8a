"""Strips as a GeoParquet table of patches: one row a patch, its outline and its vector."""

import json
import pathlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely

from deepsentinel import provenance
from deepsentinel.embedding.strips import Strips
from deepsentinel.embedding.windows import Layout
from deepsentinel.sources import base


def write(path: pathlib.Path, strips: Strips, layout: Layout, grid: base.PatchGrid, tags: Mapping[str, str]) -> None:
  """Rows of the patches that have a valid pixel, strip by strip, so that memory does not grow with the area.

  Columns: id (CRS, left and top of the patch in metres), row and col (its place in the area), clear (share of its
  pixels that lie in the area, have data and, where clouds are masked, are not under cloud), embedding (list of
  float32), geometry (polygon in the grid's CRS). The file's metadata hold `tags`, beside what GeoParquet 1.1 asks for.

  Args:
    path: of the file.
    strips: the finished strips, with 'embedding' [h, w, E] and 'clear' [h, w].
    layout: whose cells are the patches.
    grid: of the area.
    tags: of the file.
  """
  crs = pyproj.CRS.from_epsg(grid.epsg).to_json_dict()
  side_m = layout.stride * grid.pixel_m
  # The last row and column of patches may reach beyond the area.
  bbox = [grid.x0_m, grid.y0_m - layout.rows * side_m, grid.x0_m + layout.cols * side_m, grid.y0_m]
  column = {'encoding': 'WKB', 'geometry_types': ['Polygon'], 'crs': crs, 'bbox': bbox}
  geo = {'version': '1.1.0', 'primary_column': 'geometry', 'columns': {'geometry': column}}
  schema = pa.schema(
    [
      ('id', pa.string()),
      ('row', pa.int32()),
      ('col', pa.int32()),
      ('clear', pa.float32()),
      ('embedding', pa.list_(pa.float32())),
      ('geometry', pa.binary()),
    ],
    metadata={**tags, 'geo': json.dumps(geo)},
  )
  with provenance.whole(path) as file, pq.ParquetWriter(file, schema, compression='zstd') as writer:
    for strip in range(layout.strips):
      vectors, clear = strips.load('embedding', strip), strips.load('clear', strip)
      row, col = np.nonzero(np.isfinite(vectors[..., 0]))
      if not len(row):
        continue
      found = vectors[row, col]
      clear = clear[row, col]
      row = row + layout.strip_rows(strip)[0]
      left, top = grid.x0_m + col * side_m, grid.y0_m - row * side_m
      offsets = np.arange(0, found.size + 1, found.shape[1], dtype=np.int32)
      arrays = {
        'id': [f'{grid.epsg}_{x:.0f}_{y:.0f}' for x, y in zip(left, top, strict=True)],
        'row': row.astype(np.int32),
        'col': col.astype(np.int32),
        'clear': clear.astype(np.float32),
        'embedding': pa.ListArray.from_arrays(offsets, found.ravel()),
        'geometry': shapely.to_wkb(shapely.box(left, top - side_m, left + side_m, top)),
      }
      writer.write_table(pa.table(arrays, schema=schema))
