import pytest

from configs import common, quickstart
from deepsentinel.train import settings


def _changed(**changes):
  config = quickstart.get_config().to_dict()
  for key, value in changes.items():
    *path, last = key.split('__')
    section = config
    for name in path:
      section = section[name]
    section[last] = value
  return config


def test_configs_are_valid():
  settings.check(common.get_config().to_dict())
  settings.check(quickstart.get_config().to_dict())


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'encoder__name': 'resnet19'}, "Unknown encoder 'resnet19'. Known: resnet18, resnet18attn, resnet34"),
    ({'pretrain__objective': 'tile2vek'}, "Unknown config.pretrain.objective 'tile2vek'.*Did you mean 'tile2vec'"),
    ({'pretrain__objective': 'landcover'}, "Unknown config.pretrain.objective 'landcover'. Known: none, "),
    ({'pretrain__tile2vec__neighbour': 'far'}, "config.pretrain.tile2vec.neighbour is 'far'; allowed: one of near"),
    ({'finetune__learning_rate': -1e-3}, 'config.finetune.learning_rate is -0.001; allowed: a number above 0'),
    ({'finetune__learning_rate': float('nan')}, 'config.finetune.learning_rate is nan'),
    ({'data__crop_px': 100}, 'config.data.crop_px is 100; allowed: a multiple of 16 pixels'),
    ({'pretrain__sensor_dropout': 1.5}, 'config.pretrain.sensor_dropout is 1.5; allowed: a probability'),
    ({'finetune__target': 'corine_level0'}, "config.finetune.target is 'corine_level0'; allowed: one of corine_level1"),
    ({'finetune__frozen_encoder': 1}, 'config.finetune.frozen_encoder is 1; allowed: True or False'),
    (
      {'pretrain__lerning_rate': 1.0},
      'Unknown config.pretrain.lerning_rate. Did you mean config.pretrain.learning_rate',
    ),
    ({'data__bands': 'B2,VV,B3'}, 'Sentinel-2 bands come before'),
    ({'data__labelled': '', 'pretrain__objective': 'none'}, 'nothing to do'),
    (
      {'finetune__duration': {'steps': 3, 'epochs': 1.0, 'examples': 0}},
      'config.finetune.duration must have exactly one',
    ),
    ({'finetune__duration': {'steps': 0, 'epochs': 0.0, 'examples': 0}}, 'found steps=0, epochs=0.0, examples=0'),
  ],
)
def test_wrong_values_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    settings.check(_changed(**changes))


def test_missing_key_is_named():
  config = quickstart.get_config().to_dict()
  del config['finetune']['batch_size']
  with pytest.raises(ValueError, match=r'config\.finetune\.batch_size is missing'):
    settings.check(config)


@pytest.mark.parametrize(
  ('duration', 'steps'),
  [({'steps': 7}, 7), ({'epochs': 2.5}, 25), ({'examples': 64}, 8), ({'epochs': 0.01}, 1)],
)
def test_durations(duration, steps):
  """80 examples in batches of 8: ten steps an epoch."""
  whole = {'steps': 0, 'epochs': 0, 'examples': 0, **duration}
  assert settings.total_steps(whole, 80, 8, 'pretrain.duration') == steps
