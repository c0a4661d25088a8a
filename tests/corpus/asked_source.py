"""TinyEarth behind a door: a source on a network, that writes down what it is asked."""

import json
import pathlib
import time

from tests.corpus import tiny_source


class AskedEarth(tiny_source.TinyEarth):
  """Args:
  log: a file; each search appends sensor, corner of the cell and first day.
  search_s: time a search takes.
  closed: sensors whose searches fail.
  """

  def __init__(self, log: str, search_s: float = 0.0, closed: str = '', **of_tiny_earth):
    super().__init__(**of_tiny_earth)
    self.log, self.search_s, self.closed = log, search_s, closed

  def connect(self):
    pass

  def search(self, sensor, footprint, start, end):
    time.sleep(self.search_s)
    if sensor in self.closed:
      raise OSError('the door is closed')
    west, south, _, _ = footprint.bounds
    with pathlib.Path(self.log).open('a') as file:
      file.write(json.dumps([sensor, round(west), round(south), f'{start:%Y-%m-%d}']) + '\n')
    return super().search(sensor, footprint, start, end)
