"""python -m deepsentinel.embed of B2, B4 and radar, with a checkpoint that is made up; in a process of its own."""

import dataclasses

from deepsentinel import commandline, embed, sensors
from deepsentinel.train import checkpoint
from tests.embedding.small_area import make_model

BANDS = ('B2', 'B4', 'VV', 'VH')

if __name__ == '__main__':
  model = dataclasses.replace(make_model(bands=BANDS), spec=sensors.SensorSpec(BANDS, s1_quantity='gamma0_terrain'))
  checkpoint.load_trained = lambda path, stage=None: model
  commandline.run(embed.main, resumes=True)
