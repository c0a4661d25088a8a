import io

import numpy as np
import pytest
import shapely
from PIL import Image

from deepsentinel.report import figures


def _pixels(png):
  return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))


def _has(png, hexadecimal):
  rgb = np.array([int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)])
  return bool((_pixels(png) == rgb).all(-1).any())


def test_picture_repeats_whole_pixels():
  pixels = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
  np.testing.assert_array_equal(_pixels(figures.picture(pixels, 120)), pixels.repeat(3, 0).repeat(3, 1))
  np.testing.assert_array_equal(_pixels(figures.picture(pixels, 20)), pixels)


def test_bars_are_drawn_in_each_method_s_colour():
  png = figures.class_iou(
    ['urban', 'wetland'], [('a', '#0072B2', [0.5, None], [None, None]), ('b', '#D55E00', [0.2, 0.0], [None, None])]
  )
  assert _has(png, '#0072B2')
  assert _has(png, '#D55E00')
  # Twice the IoU, twice the bar.
  widths = [(_pixels(png) == rgb).all(-1).sum(1).max() for rgb in ([0, 0x72, 0xB2], [0xD5, 0x5E, 0])]
  assert widths[0] == pytest.approx(2.5 * widths[1], rel=0.05)


def test_bars_of_intervals_stay_within_0_and_100():
  np.testing.assert_allclose(figures._within([10, 60, 95], [20, 30, 20]), [[10, 30, 20], [20, 30, 5]])
  np.testing.assert_allclose(figures._within([-90, 10], [20, 200], -100), [[10, 110], [20, 90]])


@pytest.mark.parametrize('fractions', [[1.0], [0.05, 0.25, 1.0]])
def test_lines_over_fractions_are_drawn_in_each_method_s_colour(fractions):
  scores, halves = [0.3] * len(fractions), [0.4] * len(fractions)
  lines = [('a', '#0072B2', fractions, scores, halves), ('b', '#D55E00', fractions, scores, [None] * len(fractions))]
  png = figures.by_fraction('ResNet18', 'IoU, %', lines, [('c', '#009E73', fractions, scores, halves)], (0, 80))
  assert _has(png, '#0072B2')
  assert _has(png, '#D55E00')
  assert figures.by_fraction('ResNet18', 'gain', lines, [], (-50, 80)) != png


@pytest.mark.parametrize('classes', [1, 5, 44])
def test_confusion_with_empty_rows(classes):
  matrix = np.zeros((classes, classes), int)
  matrix[0, 0] = 7
  assert _pixels(figures.confusion([f'class {k}' for k in range(classes)], matrix, 'a', 'CORINE')).std() > 1


def test_curves_of_one_point_and_many():
  steps = np.arange(5.0)
  lines = [('a', '#0072B2', 'solid', steps, steps**2), ('a', '#0072B2', 'faint', steps, steps)]
  assert _has(figures.curves('loss', 'loss', lines), '#0072B2')
  assert _has(figures.curves('loss', 'loss', [('a', '#D55E00', 'solid', steps[:1], steps[:1])]), '#D55E00')


def test_smoothing_keeps_a_constant_and_a_short_series():
  np.testing.assert_allclose(figures.smoothed(np.full(9, 2.0), 3), 2)
  np.testing.assert_allclose(figures.smoothed(np.array([0.0, 3, 0, 3]), 3), [1.5, 1, 2, 1.5])
  np.testing.assert_allclose(figures.smoothed(np.array([1.0, 5.0]), 3), [1, 5])


@pytest.mark.parametrize(
  ('lon', 'lat'), [([11.0, 11.5, 12], [48, 48.5, 48.2]), ([-179, 179], [-60, 75]), ([5], [50]), ([10, 10], [90, 89.9])]
)
def test_points_anywhere_on_earth(lon, lat):
  land = [shapely.box(10, 47, 13, 49), shapely.MultiPolygon([shapely.box(-180, 60, -170, 70)])]
  png = figures.points([('train', np.array(lon, float), np.array(lat, float))], land)
  assert _has(png, figures.SPLIT_COLOURS['train'])
