"""A STAC API on loopback."""

import datetime
import json
import pathlib
from typing import Any

import shapely

from tests.sources import loopback

_CORE = 'https://api.stacspec.org/v1.0.0/'
_PAGE = 2  # items a page, so that every search of more has to follow links


class StacServer(loopback.Server):
  """Attributes:
  items: the catalogue, with asset hrefs as the client shall see them.
  """

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    self.items: list[dict[str, Any]] = []

  def answer(self, path: str, arguments: str, body: bytes, headers: Any) -> loopback.Answer:
    if path == '/':
      return loopback.Answer.of_json({
        'type': 'Catalog', 'id': 'loopback', 'description': 'loopback', 'stac_version': '1.0.0',
        'conformsTo': [_CORE + 'core', _CORE + 'item-search'],
        'links': [{'rel': 'self', 'href': self.url}, {'rel': 'root', 'href': self.url}]
        + [{'rel': 'search', 'href': f'{self.url}/search', 'method': method, 'type': 'application/geo+json'}
           for method in ('GET', 'POST')],
      })  # fmt: skip
    query = json.loads(body)
    start, end = (datetime.datetime.fromisoformat(t) for t in query['datetime'].split('/'))
    area = shapely.geometry.shape(query['intersects'])
    found = [
      item for item in self.items
      if item['collection'] in query['collections'] and shapely.geometry.shape(item['geometry']).intersects(area)
      and start <= datetime.datetime.fromisoformat(item['properties']['datetime']) <= end
    ]  # fmt: skip
    at = int(query.get('token', 0))
    further = {**query, 'token': str(at + _PAGE)}
    links = [{'rel': 'next', 'href': f'{self.url}/search', 'method': 'POST', 'body': further}]
    return loopback.Answer.of_json({
      'type': 'FeatureCollection', 'features': found[at : at + _PAGE],
      'links': links if at + _PAGE < len(found) else [],
    })  # fmt: skip
