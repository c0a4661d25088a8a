"""Legends: CORINE Land Cover classes with the EEA's colours and levels, and the OpenStreetMap themes, as data.

Stored label values are indices into these tables; nothing else in the project spells out a class.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class CorineClass:
  """One of the 44 level-3 classes. Names and colours: EEA, CORINE Land Cover nomenclature and legend."""

  code: int
  name: str
  rgb: tuple[int, int, int]


# Index 1 to 44 in this order is the EEA's own raster grid code; 0 is nodata.
CORINE = (
  CorineClass(111, 'Continuous urban fabric', (230, 0, 77)),
  CorineClass(112, 'Discontinuous urban fabric', (255, 0, 0)),
  CorineClass(121, 'Industrial or commercial units', (204, 77, 242)),
  CorineClass(122, 'Road and rail networks and associated land', (204, 0, 0)),
  CorineClass(123, 'Port areas', (230, 204, 204)),
  CorineClass(124, 'Airports', (230, 204, 230)),
  CorineClass(131, 'Mineral extraction sites', (166, 0, 204)),
  CorineClass(132, 'Dump sites', (166, 77, 0)),
  CorineClass(133, 'Construction sites', (255, 77, 255)),
  CorineClass(141, 'Green urban areas', (255, 166, 255)),
  CorineClass(142, 'Sport and leisure facilities', (255, 230, 255)),
  CorineClass(211, 'Non-irrigated arable land', (255, 255, 168)),
  CorineClass(212, 'Permanently irrigated land', (255, 255, 0)),
  CorineClass(213, 'Rice fields', (230, 230, 0)),
  CorineClass(221, 'Vineyards', (230, 128, 0)),
  CorineClass(222, 'Fruit trees and berry plantations', (242, 166, 77)),
  CorineClass(223, 'Olive groves', (230, 166, 0)),
  CorineClass(231, 'Pastures', (230, 230, 77)),
  CorineClass(241, 'Annual crops associated with permanent crops', (255, 230, 166)),
  CorineClass(242, 'Complex cultivation patterns', (255, 230, 77)),
  CorineClass(
    243, 'Land principally occupied by agriculture, with significant areas of natural vegetation', (230, 204, 77)
  ),
  CorineClass(244, 'Agro-forestry areas', (242, 204, 166)),
  CorineClass(311, 'Broad-leaved forest', (128, 255, 0)),
  CorineClass(312, 'Coniferous forest', (0, 166, 0)),
  CorineClass(313, 'Mixed forest', (77, 255, 0)),
  CorineClass(321, 'Natural grassland', (204, 242, 77)),
  CorineClass(322, 'Moors and heathland', (166, 255, 128)),
  CorineClass(323, 'Sclerophyllous vegetation', (166, 230, 77)),
  CorineClass(324, 'Transitional woodland/shrub', (166, 242, 0)),
  CorineClass(331, 'Beaches, dunes, sands', (230, 230, 230)),
  CorineClass(332, 'Bare rock', (204, 204, 204)),
  CorineClass(333, 'Sparsely vegetated areas', (204, 255, 204)),
  CorineClass(334, 'Burnt areas', (0, 0, 0)),
  CorineClass(335, 'Glaciers and perpetual snow', (166, 230, 204)),
  CorineClass(411, 'Inland marshes', (166, 166, 255)),
  CorineClass(412, 'Peatbogs', (77, 77, 255)),
  CorineClass(421, 'Salt marshes', (204, 204, 255)),
  CorineClass(422, 'Salines', (230, 230, 255)),
  CorineClass(423, 'Intertidal flats', (166, 166, 230)),
  CorineClass(511, 'Water courses', (0, 204, 242)),
  CorineClass(512, 'Water bodies', (128, 242, 230)),
  CorineClass(521, 'Coastal lagoons', (0, 255, 166)),
  CorineClass(522, 'Estuaries', (166, 255, 230)),
  CorineClass(523, 'Sea and ocean', (230, 242, 255)),
)
CORINE_NODATA = 0
CORINE_INDEX = {c.code: i for i, c in enumerate(CORINE, start=1)}
# Codes that mean "no label": unclassified land, unclassified water, outside the inventory.
CORINE_UNCLASSIFIED = (990, 995, 999)

LEVEL1_NAMES = ('urban', 'agriculture', 'natural', 'wetland', 'water')
LEVEL1_RGB = ((230, 0, 77), (255, 255, 168), (77, 190, 0), (166, 166, 255), (0, 204, 242))


def level_classes(level: int) -> tuple[str, ...]:
  """Class names of an EEA level (1, 2 or 3), in label order."""
  if level == 1:
    return LEVEL1_NAMES
  if level == 2:
    return tuple(str(code) for code in sorted({c.code // 10 for c in CORINE}))
  if level == 3:
    return tuple(c.name for c in CORINE)
  raise ValueError(f"CORINE has levels 1, 2 and 3 (EEA numbering); found {level!r}. The paper's level 0 is level 1.")


def level_colours(level: int) -> np.ndarray:
  """uint8 [K, 3]: the display colour of each class of an EEA level."""
  if level == 1:
    return np.array(LEVEL1_RGB, np.uint8)
  if level == 2:
    codes = [int(code) for code in level_classes(2)]
    return np.array([next(c.rgb for c in CORINE if c.code // 10 == code) for code in codes], np.uint8)
  level_classes(level)
  return np.array([c.rgb for c in CORINE], np.uint8)


def level_lookup(level: int) -> np.ndarray:
  """int32 [256]: stored level-3 index (0 = nodata) to class of `level`, 0-based; -1 where there is no label."""
  names = level_classes(level)
  table = np.full(256, -1, np.int32)
  for index, c in enumerate(CORINE, start=1):
    table[index] = {1: c.code // 100 - 1, 2: names.index(str(c.code // 10)) if level == 2 else 0, 3: index - 1}[level]
  return table


@dataclasses.dataclass(frozen=True)
class OsmTheme:
  """A raster theme: one bit of the stored `osm` mask.

  Attributes:
    bit: position of its bit.
    tags: OpenStreetMap key -> accepted values ('*' any); an object belongs to the theme if any pair matches.
    geometries: which of 'point', 'line', 'polygon' count.
    width_m: width a line is drawn with; 0 burns only the pixels it runs through.
  """

  bit: int
  name: str
  tags: dict[str, tuple[str, ...]]
  geometries: tuple[str, ...]
  rgb: tuple[int, int, int]
  width_m: float = 0.0


OSM_THEMES = (
  OsmTheme(0, 'building', {'building': ('*',)}, ('polygon',), (196, 64, 48)),
  OsmTheme(1, 'residential', {'landuse': ('residential',)}, ('polygon',), (222, 184, 176)),
  OsmTheme(
    2,
    'industrial',
    {'landuse': ('industrial', 'commercial', 'retail', 'port', 'railway')},
    ('polygon',),
    (190, 120, 190),
  ),
  OsmTheme(3, 'quarry', {'landuse': ('quarry', 'landfill')}, ('polygon',), (120, 70, 40)),
  OsmTheme(
    4, 'major_road', {'highway': ('motorway', 'trunk', 'primary', 'secondary')}, ('line',), (240, 150, 20), 20.0
  ),
  OsmTheme(
    5,
    'minor_road',
    {'highway': ('tertiary', 'unclassified', 'residential', 'service', 'track')},
    ('line',),
    (250, 210, 120),
  ),
  OsmTheme(6, 'railway', {'railway': ('rail', 'light_rail', 'narrow_gauge')}, ('line',), (60, 60, 60)),
  OsmTheme(7, 'farmland', {'landuse': ('farmland', 'farmyard', 'orchard', 'vineyard')}, ('polygon',), (240, 230, 140)),
  OsmTheme(
    8,
    'grassland',
    {'landuse': ('meadow', 'grass'), 'natural': ('grassland', 'heath', 'scrub')},
    ('polygon',),
    (180, 220, 120),
  ),
  OsmTheme(9, 'forest', {'landuse': ('forest',), 'natural': ('wood',)}, ('polygon',), (40, 130, 50)),
  OsmTheme(10, 'wetland', {'natural': ('wetland',)}, ('polygon',), (150, 150, 230)),
  OsmTheme(
    11,
    'water',
    {'natural': ('water', 'bay'), 'landuse': ('reservoir', 'basin'), 'waterway': ('riverbank',)},
    ('polygon',),
    (40, 120, 220),
  ),
  OsmTheme(12, 'river', {'waterway': ('river', 'canal', 'stream')}, ('line',), (80, 160, 240)),
  OsmTheme(13, 'bare', {'natural': ('bare_rock', 'scree', 'sand', 'beach', 'glacier')}, ('polygon',), (200, 200, 190)),
  OsmTheme(14, 'place', {'place': ('city', 'town', 'village', 'hamlet')}, ('point',), (0, 0, 0)),
)


@dataclasses.dataclass(frozen=True)
class MapClass:
  """A class of a land-cover map other than CORINE: WorldCover, the Cropland Data Layer, one's own.

  A record's `landcover` holds the place of a pixel's class in the legend of its data set, from 1; 0 = no label.

  Attributes:
    name: for people.
    rgb: display colour.
    values: the numbers that stand for it in the map.
    level1: the CORINE level-1 class it belongs to, one of LEVEL1_NAMES; '' where there is none.
  """

  name: str
  rgb: tuple[int, int, int]
  values: tuple[int, ...]
  level1: str = ''

  def to_dict(self) -> dict[str, Any]:
    """As a corpus card and a configuration hold it: plain JSON values."""
    colour = '#{:02x}{:02x}{:02x}'.format(*self.rgb)
    return {'name': self.name, 'colour': colour, 'values': list(self.values), 'corine_level1': self.level1}

  @classmethod
  def from_dict(cls, entry: Mapping[str, Any]) -> 'MapClass':
    red, green, blue = bytes.fromhex(entry['colour'].removeprefix('#'))
    return cls(entry['name'], (red, green, blue), tuple(entry['values']), entry['corine_level1'])


def map_classes(entries: Iterable[Mapping[str, Any]]) -> tuple[MapClass, ...]:
  """The legend of a land-cover map, from a corpus card (`card['landcover']`) or a configuration."""
  return tuple(MapClass.from_dict(entry) for entry in entries)


def map_level1_lookup(classes: Sequence[MapClass]) -> np.ndarray:
  """int32 [256]: stored `landcover` to class of CORINE level 1, 0-based; -1 where there is none."""
  table = np.full(256, -1, np.int32)
  for index, c in enumerate(classes, start=1):
    table[index] = LEVEL1_NAMES.index(c.level1) if c.level1 else -1
  return table


# What the record's scalar 'scene' says of a whole patch: stored number - 1 is the class. 0 = unknown.
SCENES = ('background', 'mine')
_SCENES_RGB = ((77, 190, 0), (166, 0, 204))


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
  """What fine-tuning predicts: for every pixel, or one scene for the whole patch.

  Attributes:
    name: as the configuration spells it.
    title: for people.
    field: of a record that holds the labels.
    classes: K names, in label order.
    colours: uint8 [K, 3].
    lookup: int32 [stored value] -> class, 0-based; -1 where there is no label.
  """

  name: str
  title: str
  field: str
  classes: tuple[str, ...]
  colours: np.ndarray
  lookup: np.ndarray

  @property
  def is_scene(self) -> bool:
    """Whether a patch has one label as a whole."""
    return self.field == 'scene'


# Of the data set's own legend, which a name alone does not tell.
LANDCOVER_TARGETS = ('landcover', 'landcover_level1')
TARGETS = (
  'corine_level1', 'corine_level2', 'corine_level3', 'corine_level1_nodata', 'osm', 'mine', *LANDCOVER_TARGETS,
)  # fmt: skip


def target_of(finetune: Mapping[str, Any]) -> Target:
  """The target of a configuration's section `finetune`, with the legend of its data set where it has one."""
  return target(finetune['target'], map_classes(finetune.get('legend', ())))


@functools.cache
def target(name: str, classes: tuple[MapClass, ...] = ()) -> Target:
  """A fine-tuning target by name.

  'corine_level1_nodata' trains and scores pixels without a label as a class, as the paper's code did by the first digit
  of its codes, 0 (outside the raster) to 5 and 9 (999, nodata); both are stored as 0 here, so that 9 stays empty.

  'osm' takes of each pixel the theme that a map draws on top, the one with the lowest bit; a pixel of no theme is not
  labelled, since OpenStreetMap leaves much unmapped. 'mine' is a scene: whether the patch is centred on a coal mine.

  'landcover' predicts the classes of the data set's own land-cover map, 'landcover_level1' those of CORINE level 1 that
  they belong to.

  Args:
    name: one of TARGETS.
    classes: the data set's legend, of which the land-cover targets consist; no other target looks at it.
  Raises:
    ValueError: unknown name.
  """
  if name not in TARGETS:
    raise ValueError(f'Unknown finetune.target {name!r}. Known: {", ".join(TARGETS)}.')
  if name == 'osm':
    stored = np.arange(1 << 16)
    lowest = np.log2(np.maximum(stored & -stored, 1)).astype(np.int32)
    lookup = np.where((stored > 0) & (lowest < len(OSM_THEMES)), lowest, -1).astype(np.int32)
    names, colours = tuple(t.name for t in OSM_THEMES), np.array([t.rgb for t in OSM_THEMES], np.uint8)
    return Target(name, 'OpenStreetMap themes', 'osm', names, colours, lookup)
  if name == 'corine_level1_nodata':
    lookup = np.where(np.arange(256) <= len(CORINE), level_lookup(1) + 1, -1).astype(np.int32)
    colours = np.concatenate([[(90, 90, 98)], level_colours(1), [(160, 160, 168)]]).astype(np.uint8)
    names = ('outside', *level_classes(1), 'no data')
    return Target(name, 'CORINE level 1 and no data, as in the paper', 'corine', names, colours, lookup)
  if name == 'mine':
    lookup = np.full(256, -1, np.int32)
    lookup[1 : len(SCENES) + 1] = np.arange(len(SCENES))
    return Target(name, 'Coal mines', 'scene', SCENES, np.array(_SCENES_RGB, np.uint8), lookup)
  if name == 'landcover':
    lookup = np.where(np.arange(256) <= len(classes), np.arange(256) - 1, -1).astype(np.int32)
    colours = np.array([c.rgb for c in classes], np.uint8).reshape(-1, 3)
    return Target(name, 'Land-cover map', 'landcover', tuple(c.name for c in classes), colours, lookup)
  if name == 'landcover_level1':
    title = 'CORINE level 1, from the land-cover map'
    return Target(name, title, 'landcover', level_classes(1), level_colours(1), map_level1_lookup(classes))
  level = int(name[-1])
  return Target(
    name, f'CORINE level {level}', 'corine', level_classes(level), level_colours(level), level_lookup(level)
  )
