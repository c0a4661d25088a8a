import numpy as np
import pytest

from deepsentinel import composites, legend


def test_true_colour_by_hand():
  s2 = np.array([[[3000, 0, 3000], [1500, 1, 9000]]], np.uint16)
  picture = composites.true_colour(s2)
  assert picture.dtype == np.uint8
  assert tuple(picture[0, 0]) == composites.NODATA_RGB
  # Half of the range to the power of 1 / 1.8 is 0.680, 1/3000 of it 0.0117; cloud saturates.
  assert picture[0, 1].tolist() == [round(0.5 ** (1 / 1.8) * 255), 3, 255]


def test_radar_by_hand():
  s1 = np.array([[-1000, -1700], [0, -2700], [-32768, -1000], [-3000, -700]], np.int16)
  # VV -10, VH -17 and their difference 7 dB are the centres of the three ranges: grey.
  assert composites.radar(s1).tolist() == [[128, 128, 128], [255, 0, 255], list(composites.NODATA_RGB), [0, 255, 0]]


@pytest.mark.parametrize('level', [1, 2, 3])
def test_classes_have_the_legend_s_colours(level):
  target = legend.target(f'corine_level{level}')
  picture = composites.classes(target.lookup[[[0, 1, 44, 255]]], target)
  colours = legend.level_colours(level)
  assert picture[0, 0].tolist() == picture[0, 3].tolist() == list(composites.UNLABELLED_RGB)
  assert picture[0, 1].tolist() == colours[0].tolist()
  assert picture[0, 2].tolist() == colours[-1].tolist()
  assert composites.classes(np.array([-1, 0]), target).tolist() == [
    list(composites.UNLABELLED_RGB),
    colours[0].tolist(),
  ]


def test_wrong_bands_are_refused():
  with pytest.raises(ValueError, match='B4, B3, B2'):
    composites.true_colour(np.zeros((4, 4, 12), np.uint16))
  with pytest.raises(ValueError, match='VV, VH'):
    composites.radar(np.zeros((4, 4), np.int16))
  with pytest.raises(ValueError, match='classes 0 to 4'):
    composites.classes(np.array([5]), legend.target('corine_level1'))
