"""Earth Engine on loopback: sign-in, catalogue and pixels, as its real client asks for them."""

import io
import json
import pathlib
import re
import urllib.parse
from typing import Any

import ee
import numpy as np
import rasterio
import shapely

from tests.sources import loopback

_CLIENT = pathlib.Path(ee.__file__).parent / 'tests'
_FILTER = re.compile(r'startTime >= "([^"]+)" AND endTime < "([^"]+)" AND intersects\("(.*)"\)')


class EarthEngineServer(loopback.Server):
  """Attributes:
  images: the catalogue, as listAssets gives it.
  bands: asset -> band -> raster in `folder`, whose nodata is masked.
  tokens: those that are taken; the newest is given out at /token.
  change: what is done to an array of pixels before it is sent.
  """

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    self.images: list[dict[str, Any]] = []
    self.bands: dict[str, dict[str, str]] = {}
    self.tokens = ['token0']
    self.change = lambda array: array

  def answer(self, path: str, arguments: str, body: bytes, headers: Any) -> loopback.Answer:
    if path == '/token':
      self.seen['token'] += 1
      return loopback.Answer.of_json({'access_token': self.tokens[-1], 'expires_in': 3600, 'token_type': 'Bearer'})
    if path == '/$discovery/rest':
      return loopback.Answer.of_json(self._discovery())
    if headers.get('Authorization') not in [f'Bearer {token}' for token in self.tokens]:
      return loopback.Answer.of_json({'error': {'code': 401, 'message': 'expired'}}, 401)
    if path.endswith('/algorithms'):
      return loopback.Answer(200, (_CLIENT / 'algorithms.json').read_bytes(), {'Content-Type': 'application/json'})
    if path.endswith(':listAssets'):
      return self._listed(path, dict(urllib.parse.parse_qsl(arguments)))
    query = json.loads(body)
    if path.endswith(':getPixels'):
      return self._pixels(path.partition('/assets/')[2].removesuffix(':getPixels'), query, 0)
    text = json.dumps(query['expression'])
    asset = next(name for name in self.bands if f'"{name}"' in text)
    return self._pixels(asset, query, float(re.search(r'-9999(\.0)?', text)[0]))

  def _discovery(self) -> dict[str, Any]:
    text = (_CLIENT / 'cloud_api_discovery_document.json').read_text().replace('v1alpha', 'v1')
    document = json.loads(text.replace('https://earthengine.googleapis.com', self.url))
    listing = document['resources']['projects']['resources']['assets']['methods']['listAssets']['parameters']
    for name in ('filter', 'view'):
      listing[name] = {'location': 'query', 'type': 'string'}
    return document

  def _listed(self, path: str, query: dict[str, str]) -> loopback.Answer:
    collection = path.partition('/assets/')[2].removesuffix(':listAssets')
    start, end, region = _FILTER.fullmatch(query['filter']).groups()
    area = shapely.geometry.shape(json.loads(region.replace("'", '"').replace('\\"', '"')))
    found = [
      image for image in self.images
      if f'/{collection}/' in image['name'] and start <= image['startTime'] and image['endTime'] < end
      and shapely.Polygon(shapely.get_coordinates(shapely.geometry.shape(image['geometry']))).intersects(area)
    ]  # fmt: skip
    at = int(query.get('pageToken', 0))
    more = {'nextPageToken': str(at + 2)} if at + 2 < len(found) else {}
    return loopback.Answer.of_json({'assets': found[at : at + 2], **more})

  def _pixels(self, asset: str, query: dict[str, Any], masked: float) -> loopback.Answer:
    if asset not in self.bands:
      return loopback.Answer.of_json(
        {'error': {'code': 404, 'message': f"Image.load: asset '{asset}' not found."}}, 404
      )
    grid = query['grid']
    t, (h, w) = grid['affineTransform'], (grid['dimensions']['height'], grid['dimensions']['width'])
    planes = {}
    for band in query['bandIds']:
      if band not in self.bands[asset]:
        message = f"Image.select: Pattern '{band}' did not match any bands."
        return loopback.Answer.of_json({'error': {'code': 400, 'message': message}}, 400)
      with rasterio.open(self.folder / self.bands[asset][band]) as file:
        assert grid['crsCode'] == f'EPSG:{file.crs.to_epsg()}'
        col, row = ~file.transform @ (t['translateX'], t['translateY'])
        step = round(t['scaleX'] / file.transform.a)
        plane = file.read(1)[round(row) :: step, round(col) :: step][:h, :w]
        planes[band] = np.where(plane == file.nodata, np.array(masked, plane.dtype), plane)
    array = np.zeros((h, w), [(band, plane.dtype) for band, plane in planes.items()])
    for band, plane in planes.items():
      array[band] = plane
    buffer = io.BytesIO()
    np.save(buffer, self.change(array))
    return loopback.Answer(200, buffer.getvalue(), {'Content-Type': 'application/octet-stream'})
