"""The legends against the EEA's nomenclature as an independent project wrote it down."""

import json

import numpy as np
import pytest

from deepsentinel import legend

# EEA, CORINE nomenclature: the numbers of level-3 classes under each level-2 class.
LEVEL2 = {11: 2, 12: 4, 13: 3, 14: 2, 21: 3, 22: 3, 23: 1, 24: 4, 31: 3, 32: 4, 33: 5, 41: 2, 42: 3, 51: 2, 52: 3}


def test_44_classes_in_the_order_of_the_grid_code():
  codes = [c.code for c in legend.CORINE]
  assert codes == [first * 10 + i for first, n in LEVEL2.items() for i in range(1, n + 1)]
  assert len(codes) == 44
  assert (legend.CORINE_INDEX[111], legend.CORINE_INDEX[312], legend.CORINE_INDEX[523]) == (1, 24, 44)


def test_colours_and_names_are_the_eeas(real_data):
  rows = json.loads((real_data / 'bigearthnet_v2' / 'clc_metadata.json').read_text())['clc_data']
  theirs = {
    int(r['code']): (tuple(r['color'][:3]), r['name_clc']) for r in rows if int(r['code']) in legend.CORINE_INDEX
  }
  assert len(theirs) == 44
  for c in legend.CORINE:
    rgb, name = theirs[c.code]
    assert c.rgb == rgb, c
    assert ''.join(filter(str.isalnum, c.name)).lower()[:12] == ''.join(filter(str.isalnum, name)).lower()[:12]


@pytest.mark.parametrize(('level', 'count'), [(1, 5), (2, 15), (3, 44)])
def test_levels(level, count):
  names, colours, lookup = legend.level_classes(level), legend.level_colours(level), legend.level_lookup(level)
  assert len(names) == len(set(names)) == len(colours) == count
  assert lookup[0] == -1
  assert (lookup[45:] == -1).all()
  assert sorted(set(lookup[1:45].tolist())) == list(range(count))
  # 412, peat bogs: level 1 wetland, level 2 '41'.
  index = legend.CORINE_INDEX[412]
  assert names[lookup[index]] == {1: 'wetland', 2: '41', 3: 'Peatbogs'}[level]


def test_the_papers_level_0_is_explained():
  with pytest.raises(ValueError, match="paper's level 0 is level 1"):
    legend.level_classes(0)


CLASSES = (
  legend.MapClass('Trees', (0, 100, 0), (10,), 'natural'),
  legend.MapClass('Rice', (0, 168, 229), (3, 4), 'agriculture'),
  legend.MapClass('Unknown', (1, 2, 3), (9,)),
)


def test_targets():
  for name in legend.TARGETS:
    target = legend.target(name, CLASSES)
    # 999 and 0 are one stored value; of level 1 these three classes know two.
    unseen = {'corine_level1_nodata': 1, 'landcover_level1': 2}.get(name, 0)
    assert len(target.classes) == len(target.colours) == target.lookup.max() + 1 + unseen
  paper = legend.target('corine_level1_nodata')
  assert paper.lookup[[0, 1, 44, 45]].tolist() == [0, 1, 5, -1]
  osm = legend.target('osm')
  # Nothing; a building (bit 0) on farmland (bit 7); a place (bit 14); the unused bit 15.
  assert osm.lookup[[0, 1 | 1 << 7, 1 << 14, 1 << 15]].tolist() == [-1, 0, 14, -1]
  with pytest.raises(ValueError, match=r"Unknown finetune.target 'corine'. Known: corine_level1"):
    legend.target('corine')


def test_targets_of_a_data_sets_own_legend():
  section = {'legend': [c.to_dict() for c in CLASSES]}
  own = legend.target_of({'target': 'landcover', **section})
  assert own.classes == ('Trees', 'Rice', 'Unknown')
  assert own.colours.tolist() == [[0, 100, 0], [0, 168, 229], [1, 2, 3]]
  assert own.lookup[[0, 1, 2, 3, 4, 255]].tolist() == [-1, 0, 1, 2, -1, -1]
  level1 = legend.target_of({'target': 'landcover_level1', **section})
  assert level1.classes == legend.LEVEL1_NAMES
  # natural is the third of level 1, agriculture the second; a class without one is not labelled.
  assert level1.lookup[[0, 1, 2, 3, 4]].tolist() == [-1, 2, 1, -1, -1]
  assert own.field == level1.field == 'landcover'
  assert legend.target_of({'target': 'osm', **section}).classes == legend.target('osm').classes


def test_osm_themes_have_a_bit_of_their_own():
  bits = [t.bit for t in legend.OSM_THEMES]
  assert bits == list(range(len(bits)))
  assert max(bits) < 16
  assert len({t.name for t in legend.OSM_THEMES}) == len(bits)
  assert all(set(t.geometries) <= {'point', 'line', 'polygon'} for t in legend.OSM_THEMES)
  # A line needs either a width or the rule for lines without one; other shapes have none.
  assert all(t.width_m == 0 or t.geometries == ('line',) for t in legend.OSM_THEMES)
  assert np.bitwise_or.reduce([1 << b for b in bits]) < 1 << 16
