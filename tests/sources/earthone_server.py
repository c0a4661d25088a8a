"""EarthOne's catalogue and raster service on loopback, as its real client asks for them."""

import json
import pathlib
from typing import Any

import blosc2
import numpy as np
import rasterio
import shapely

from tests.sources import loopback


class EarthOneServer(loopback.Server):
  """Attributes:
  products: id -> list of the attributes of its bands.
  images: attributes of the images, with 'id'.
  change: what is done to an array of pixels before it is sent.
  """

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    self.products: dict[str, list[dict[str, Any]]] = {}
    self.images: list[dict[str, Any]] = []
    self.change = lambda array: array

  def answer(self, path: str, arguments: str, body: bytes, headers: Any) -> loopback.Answer:
    if path.startswith('/catalog/products/'):
      product = path.rpartition('/')[2].replace('%3A', ':')
      if product not in self.products:
        return loopback.Answer.of_json({'errors': [{'title': 'Object not found', 'status': '404'}]}, 404)
      return loopback.Answer.of_json({
        'data': {'type': 'product', 'id': product, 'attributes': {'name': product}}, 'jsonapi': {'version': '1.0'},
      })  # fmt: skip
    query = json.loads(body)
    if path == '/catalog/bands':
      (product,) = [f['val'] for f in json.loads(query['filter']) if f['name'] == 'product_id']
      bands = [{'type': 'band', 'id': f'{product}:{b["name"]}', 'attributes': {'product_id': product, **b}}
               for b in self.products[product]]  # fmt: skip
      return self._listing('bands', bands, 0)
    if path == '/catalog/images':
      return self._images(query, arguments)
    assert path == '/raster/npz', path
    return self._pixels(query)

  def _listing(self, what: str, data: list[dict[str, Any]], at: int, page: int = 100) -> loopback.Answer:
    links = {'next': f'{self.url}/catalog/{what}?continuation={at + page}'} if at + page < len(data) else {}
    return loopback.Answer.of_json({
      'meta': {'count': len(data)}, 'data': data[at : at + page], 'links': links, 'jsonapi': {'version': '1.0'},
    })  # fmt: skip

  def _images(self, query: dict[str, Any], arguments: str) -> loopback.Answer:
    area = shapely.geometry.shape(json.loads(query['intersects']))
    filters = json.loads(query['filter'])
    (product,) = [f['val'] for f in filters if f['name'] == 'product_id']
    start, end = (
      next(f['val'] for f in filters if f['name'] == 'acquired' and f['op'] in ops) for ops in (('gte',), ('lt',))
    )
    found = [
      {'type': 'image', 'id': image['id'], 'attributes': {k: v for k, v in image.items() if k != 'id'}}
      for image in self.images
      if image['product_id'] == product and shapely.geometry.shape(image['geometry']).intersects(area)
      and start[:19] <= image['acquired'][:19] < end[:19]
    ]  # fmt: skip
    return self._listing('images', found, int(arguments.partition('continuation=')[2] or 0), page=2)

  def _pixels(self, query: dict[str, Any]) -> loopback.Answer:
    left, bottom, right, top = query['outputBounds']
    pixel = query['resolution']
    planes, masks = [], []
    for band in query['bands']:
      path = self.folder / f'{band}.tif'
      if not path.exists():
        return loopback.Answer.of_json({'message': f'band {band} does not exist'}, 400)
      with rasterio.open(path) as file:
        assert query['srs'] == query['outputBoundsSRS'] == f'EPSG:{file.crs.to_epsg()}'
        col, row = ~file.transform @ (left, top)
        window = rasterio.windows.Window(round(col), round(row), (right - left) / pixel, (top - bottom) / pixel)
        planes.append(file.read(1, window=window))
        masks.append(planes[-1] == file.nodata)
    array = self.change(np.stack(planes).astype({'Byte': 'u1', 'UInt16': '<u2', 'Float32': '<f4'}[query['ot']]))
    mask = self.change(np.stack(masks))
    # Two chunks, of rows, as the service sends large answers.
    half, parts = array.shape[1] // 2, []
    for rows in (slice(0, half), slice(half, None)):
      chunk, hidden = np.ascontiguousarray(array[:, rows]), np.ascontiguousarray(mask[:, rows])
      parts.append(json.dumps({'shape': chunk.shape, 'offset': [0, rows.start, 0]}).encode() + b'\n')
      parts += [blosc2.compress(part, typesize=part.itemsize) for part in (chunk, hidden)]
    head = {'shape': array.shape, 'dtype': array.dtype.str, 'chunks': 2}
    return loopback.Answer(200, b'{}\n' + json.dumps(head).encode() + b'\n' + b''.join(parts))
