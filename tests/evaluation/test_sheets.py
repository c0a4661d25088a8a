import jax
import numpy as np

from deepsentinel import composites, legend
from deepsentinel.encoders import resnet
from deepsentinel.evaluation import sheets
from deepsentinel.objectives import scene, vae
from tests.train import tiny_model

TARGET = legend.target('corine_level1')


def test_stored_undoes_standardising():
  batch = tiny_model.host_batch(0, 3, 2, labels=False)
  prepare = tiny_model.prepare(labels=False)
  inputs = prepare(batch, 0, train=False)
  fields = sheets.stored(np.asarray(inputs['images']), np.asarray(inputs['valid']), prepare)
  np.testing.assert_array_equal(fields['s2'], batch['s2'])
  np.testing.assert_array_equal(fields['s1'], batch['s1'])


def test_numbers_beyond_the_storage_type_stay_within_it():
  prepare = tiny_model.prepare(labels=False)
  fields = sheets.stored(np.array([[-1e6] * 5, [1e6] * 5], np.float32), np.ones((2, 5), bool), prepare)
  np.testing.assert_array_equal(fields['s2'], [[1] * 3, [65535] * 3])
  np.testing.assert_array_equal(fields['s1'], [[-32767] * 2, [32767] * 2])


def test_labels_and_prediction_stand_side_by_side():
  module = tiny_model.TinyLabels(tiny_model.TinyEncoder(4))
  batch = tiny_model.host_batch(0, 2, 1, labels=True)
  prepare = tiny_model.prepare(labels=True)
  variables = tiny_model.variables(module)
  (picture,) = sheets.of_labels(module, prepare, batch, TARGET)(variables, 0).values()
  label = composites.classes(TARGET.lookup[batch['corine'].astype(int)], TARGET)
  prediction = composites.classes(
    np.asarray(module.apply(variables, prepare(batch, 0, train=False), method='predict').argmax(-1)), TARGET
  )
  edge = tiny_model.CROP_PX
  # The records have no B4: radar, label, prediction.
  assert picture.shape == (2 * edge + 2, 3 * edge + 4, 3)
  np.testing.assert_array_equal(picture[:edge, edge + 2 : 2 * edge + 2], label[0])
  np.testing.assert_array_equal(picture[edge + 2 :, 2 * edge + 4 :], prediction[1])
  np.testing.assert_array_equal(picture[edge + 2 :, :edge], composites.radar(batch['s1'][1, 0]))


def test_views_and_what_an_autoencoder_decodes():
  module = vae.VAE(resnet.ResNet18(8))
  batch = tiny_model.host_batch(0, 2, 1, labels=False)
  variables = tiny_model.variables(module)
  variables = jax.tree.map(np.zeros_like, variables)  # decodes zeros: the mean of each band
  pictures = sheets.of_views(module, tiny_model.prepare(labels=False), batch)(variables, 5)
  assert set(pictures) == {'views', 'decoded'}
  edge = tiny_model.CROP_PX
  np.testing.assert_array_equal(pictures['views'][:edge], composites.radar(batch['s1'][0, 0]))
  mean = composites.radar(np.full((edge, edge, 2), -1500, np.int16))
  np.testing.assert_array_equal(pictures['decoded'][:edge, edge + 2 :], mean)


def test_a_scene_is_a_tile_of_one_colour():
  mine = legend.target('mine')
  module = scene.Scene(tiny_model.TinyEncoder(4))
  batch = {**tiny_model.host_batch(0, 2, 1, labels=False), 'scene': np.array([1, 2], np.uint8)}
  (picture,) = sheets.of_labels(module, tiny_model.prepare(labels=False), batch, mine)(
    tiny_model.variables(module), 0
  ).values()
  edge = tiny_model.CROP_PX
  for example, row in enumerate((0, edge + 2)):
    tile = picture[row : row + edge, edge + 2 : 2 * edge + 2]
    assert (tile == mine.colours[example]).all()
