"""Bad input to the commands that train, describe, report, evaluate and embed: one sentence each (TRIALS.md)."""

import json
import shutil

import pytest

from deepsentinel import experiment
from deepsentinel.train import checkpoint
from tests import broken_inputs, commands, trials

SECTION = 'Experiments and maps'
MAIN, DESCRIBE, REPORT = 'deepsentinel.main', 'deepsentinel.describe', 'deepsentinel.report'
EVALUATE, EMBED = 'deepsentinel.evaluate', 'deepsentinel.embed'
QUICKSTART = '--config=configs/quickstart.py'
MAPS = ('--checkpoint={made}/run', '--out={out}', '--noprogress')
ALL_KEYS = 'configs/common.py lists every key'


def training(name: str, arguments: str, *says: str, **environment: str) -> trials.Trial:
  common = (*broken_inputs.TRAINING, '--workdir={out}')
  return trials.Trial(name, MAIN, tuple(arguments.split()), says, common, environment)


def embedding(name: str, arguments: str, *says: str) -> trials.Trial:
  """The arguments that come last count, so a trial replaces some of the common ones."""
  return trials.Trial(name, EMBED, tuple(arguments.split()), says, MAPS)


def scenes(name: str, arguments: str, *says: str) -> trials.Trial:
  """Of local files, whose units are stated as they are unless the trial states others."""
  common = (*MAPS, TIMES, *STATED)
  return trials.Trial(name, EMBED, tuple(arguments.split()), says, common)


def other(name: str, module: str, arguments: str, *says: str) -> trials.Trial:
  return trials.Trial(name, module, tuple(arguments.split()), says)


NOWHERE = '--source=synthetic --date=2018-06-15'
TIMES = '--option=times={{"S2_colours":"2018-06-15","S2_whole":"2018-06-15","S1_whole":"2018-06-15",' + ','.join(
  f'"{name}":"2018-06-15"' for name in ('S2_floating', 'S2_permuted', 'S1_elsewhere')
) + '}}'  # fmt: skip
STATED = ('--s2_unit=reflectance_x1e4', '--s1_unit=db', '--s1_quantity=sigma0_ellipsoid')
BOTH = '--s2={made}/S2_whole --s1={made}/S1_whole'
TRIALS = [
  # The command line and the configuration.
  training('unknown encoder', '--config.encoder.name=resnet19', "encoder 'resnet19'. Known: resnet10, resnet18,",
           "Did you mean 'resnet18'?"),
  training('misspelt key', '--config.pretrain.lerning_rate=1', "key of the configuration: 'lerning_rate'",
           'Did you mean "learning_rate"', ALL_KEYS),
  training('unknown size', '--config=configs/none_resnet18.py:huge', "Unknown size 'huge' after the colon of --config",
           'paper, small'),
  training('misspelt section', '--config.pretrian.batch_size=8', "'pretrian'", 'Did you mean "pretrain"', ALL_KEYS),
  training('key below a value', '--config.seed.x=1', 'seed.x', ALL_KEYS),
  training('misspelt flag', '--wrokdir=x', "flag 'wrokdir'. Did you mean: workdir", '--help lists the flags'),
  training('argument without dashes', 'config.seed=1', 'argument(s) config.seed=1', '--config.KEY=VALUE'),
  training('text for a number', '--config.pretrain.batch_size=many', '--config.pretrain.batch_size=many', '--help'),
  training('negative learning rate', '--config.finetune.learning_rate=-0.1', 'finetune.learning_rate is -0.1',
           'allowed: a number above 0'),
  training('two durations at once', '--config.pretrain.duration.epochs=1', 'exactly one of steps, epochs and examples',
           'found epochs=1.0, examples=0, steps=2'),
  training('no duration', '--config.finetune.duration.steps=0', 'exactly one of steps', 'steps=0'),
  training('unknown objective', '--config.pretrain.objective=tile2vek', 'Known: none, contrastive, tile2vec, vae',
           "Did you mean 'tile2vec'?"),
  training('unknown band', '--config.data.bands=B2,B10', "Unknown band(s) ['B10']. Known: B1, B2"),
  training('crop no multiple of 16', '--config.data.crop_px=40', 'crop_px is 40; allowed: a multiple of 16 pixels'),
  training('batch that does not divide over the devices', '--config.finetune.batch_size=6',
           'Batch size 6 does not divide over 4 devices; nearest that do: 4, 8. Pass --config.finetune.batch_size',
           XLA_FLAGS='--xla_force_host_platform_device_count=4'),
  other('no configuration', MAIN, '--workdir={out}', 'Flag --config must have a value'),
  other('configuration that is not there', MAIN, '--config=configs/quikstart.py', 'configs/quikstart.py is not there',
        'such as those in configs/'),
  other('configuration that is a folder', MAIN, '--config=configs', '--config=configs is a folder', 'configs/'),
  other('configuration that is no Python', MAIN, '--config={made}/syntax.py', 'syntax.py, line 1', 'get_config()'),
  other('configuration with a typo', MAIN, '--config={made}/typo.py', '{made}/typo.py, line 6', "'widht'", '"width"',
        ALL_KEYS),
  other("another command's configuration", MAIN, '--config=configs/corpora/demo_labelled.py --workdir={out}',
        'Unknown config.labelled', ALL_KEYS),
  # Records.
  training('records that are not there', '--config.data.labelled=deepsentinel_labelled/demo '
           '--config.data.data_dir={made}/folder', 'deepsentinel_labelled/demo is not prepared in {made}/folder',
           '`tfds build tfds_builders/deepsentinel_labelled --config=demo`'),
  training('records in a folder that holds none', '--config.data.labelled={made}/folder',
           "'{made}/folder' is neither a prepared directory nor a known data set. Known: deepsentinel_labelled"),
  training('records prepared by something else', '--config.data.labelled={made}/foreign_records',
           '{made}/foreign_records was not packaged by a DeepSentinel builder', 'tfds build'),
  training('damaged dataset_info.json', '--config.data.labelled={made}/damaged_records',
           '{made}/damaged_records/dataset_info.json is damaged', 'tfds build', '--overwrite'),
  training('shard truncated in the middle', '--config.data.labelled={made}/cut_shard',
           '{made}/cut_shard/deepsentinel_labelled-train.tfrecord-00000-of-00001 is cut short', 'found', 'expected',
           'Restore this file', '--overwrite'),
  training('shard that is gone', '--config.data.labelled={made}/lost_shard', 'there is no such file',
           'Restore this file'),
  training('unlabelled records given as labelled', '--config.data.labelled={made}/unlabelled',
           '{made}/unlabelled, whose records hold no labels', 'tfds_builders/deepsentinel_labelled'),
  training('target of a map that the records lack', '--config.finetune.target=landcover', "target='landcover' needs a "
           'land-cover map', '--config.labels.landcover.path', 'another target'),
  training('empty test split', '--config.data.labelled={made}/no_test_split',
           'no patch in split test (splits: train, validation)', '--config.split.block_km'),
  training('crop larger than the patch', '--config.data.crop_px=64', 'crop_px=64 does not fit the patches of 32 px',
           'Pass --config.data.crop_px=32'),
  training('missing band', '--config.data.labelled={made}/few_bands --config.pretrain.objective=none '
           '--config.data.bands=B2,VH', "['VH'] asked for; these records hold ['B2', 'B3', 'B4', 'VV']",
           'Pass --config.data.bands'),
  # Checkpoints and run directories.
  training('land-cover records for coal mines', '--config.finetune.target=mine', "target='mine' needs patches of "
           'background and of mine', 'tfds_builders/deepsentinel_mines'),
  training('random forest of scenes', '--config.finetune.target=mine --config.evaluation.random_forest=True',
           'random_forest is True: it predicts pixels', '--config.evaluation.random_forest=False'),
  training('fewer bands than an encoder without band dropout knows', '--config.pretrain.from_checkpoint={made}/run '
           '--config.data.bands=B2,B3,B4,VV,VH', 'without band dropout', 'augment.band_dropout above 0',
           'leave config.data.bands empty'),
  training('checkpoint of another sensor contract', '--config.data.labelled={made}/gamma0_records '
           '--config.pretrain.from_checkpoint={made}/run', 'trained on radar sigma0_ellipsoid; these pixels are '
           'gamma0_terrain', 'use a checkpoint trained on it'),
  training('checkpoint of other bands', '--config.data.labelled={made}/few_bands '
           '--config.pretrain.from_checkpoint={made}/run', 'these pixels have no B1, B5', '--config.data.bands'),
  training('from a folder without a checkpoint', '--config.pretrain.from_checkpoint={made}/folder',
           'No pretrain checkpoint in {made}/folder', '`python -m deepsentinel.main --config='),
  training('run directory of another configuration', '--workdir={made}/run --config.seed=1',
           '{made}/run holds an experiment with another configuration (config.seed: 0 there, 1 here)', '--workdir'),
  training('run directory of an older version', '--workdir={made}/older_run',
           '{made}/older_run holds an experiment of another version of DeepSentinel: only one of the two knows '
           'config.pretrain.cloud_shadow', 'from_checkpoint={made}/older_run'),
  training('run begun on another sensor contract', '--workdir={made}/begun_run '
           '--config.data.labelled={made}/gamma0_records --config.data.unlabelled={made}/gamma0_unlabelled',
           'The checkpoint in {made}/begun_run has another sensor contract than these records',
           'radar quantity sigma0_ellipsoid against gamma0_terrain', 'start in a new --workdir'),
  training('run directory with a damaged journal', '--workdir={made}/damaged_journal',
           '{made}/damaged_journal/experiment.json is damaged', 'another --workdir'),
  training('run directory that is a file', '--workdir={made}/file', '{made}/file: File exists',
           'choose another folder'),
  training('run directory below a file', '--workdir={made}/file/run', '{made}/file/run: Not a directory',
           'choose another folder'),
  # describe, report, evaluate.
  other('describe an unknown encoder', DESCRIBE, f'{QUICKSTART} --config.encoder.name=vit', "Unknown encoder 'vit'",
        'Known: resnet10, resnet18'),
  other('describe with a misspelt key', DESCRIBE, f'{QUICKSTART} --config.encoder.widht=8', "'widht'", '"width"',
        ALL_KEYS),
  other('describe a corpus', DESCRIBE, '--config=configs/corpora/common.py', 'Unknown config.labelled', ALL_KEYS),
  other('report on nothing', REPORT, '--out={out}', 'No RUN... given'),
  other('report on a folder that is not there', REPORT, '{made}/absent --out={out}',
        '{made}/absent: there is no such directory', 'python -m deepsentinel.main'),
  other('report on a folder without a run', REPORT, '{made}/folder --out={out}',
        '{made}/folder: the directory holds no run', 'python -m deepsentinel.main'),
  other('report into a folder', REPORT, '{made}/run --out={made}/folder', '--out={made}/folder is a folder',
        '--out={made}/folder/report.html'),
  other('evaluate records without labels', EVALUATE, '--checkpoint={made}/run --data={made}/unlabelled',
        '{made}/unlabelled has neither label maps', 'nor class lists', 'Name records of deepsentinel_labelled'),
  other('evaluate with too few labels', EVALUATE, '--checkpoint={made}/run --data={made}/labelled --fractions=0.5',
        'None of --fractions leaves 8 of the 8 train patches', 'a larger corpus'),
  other('evaluate into a file', EVALUATE, '--checkpoint={made}/run --data={made}/labelled --out={made}/file',
        '--out={made}/file cannot be written', 'a folder that you may write to'),
  other('evaluate an unknown split', EVALUATE, '--checkpoint={made}/run --data={made}/labelled --splits=tset',
        'Unknown --splits tset. Known: train, validation, test'),
  other('evaluate no neighbour', EVALUATE, '--checkpoint={made}/run --k=0', '--k=0', 'not a positive integer'),
  # embed.
  embedding('bounds of two numbers', f'{NOWHERE} --bounds=12.2,52.3', '--bounds=12.2,52.3 is no west,south,east,north'),
  embedding('bounds of words', f'{NOWHERE} --bounds=a,b,c,d', '--bounds=a,b,c,d is no west,south,east,north'),
  embedding('bounds upside down', f'{NOWHERE} --bounds=12,52.4,12.1,52.3', '--bounds=12.0,52.4,12.1,52.3',
            'no west,south,east,north in degrees with an area'),
  embedding('bounds wider than a UTM zone', f'{NOWHERE} --bounds=0,50,20,60', '20.0 degrees wide', 'in parts'),
  embedding('no bounds', NOWHERE, '--source=synthetic is searched: pass --bounds', '--date'),
  embedding('area that is not there', f'{NOWHERE} --area={{made}}/absent.gpkg',
            '--area={made}/absent.gpkg is not there'),
  embedding('area that is no vector file', f'{NOWHERE} --area={{made}}/file', 'cannot be read as a vector file'),
  embedding('area and bounds', f'{NOWHERE} --area={{made}}/file --bounds=12.2,52.3,12.3,52.4',
            '--area and --bounds exclude each other'),
  embedding('date and dates', f'{NOWHERE} --dates=2018-06-01,2018-06-30', '--date and --dates exclude each other'),
  embedding('one date for two', '--source=synthetic --dates=2018-06-01', 'write --dates=2023-06-01,2023-08-31'),
  embedding('dates that end before they begin', '--source=synthetic --dates=2018-06-30,2018-06-01',
            'ends before it begins'),
  embedding('unknown level', f'{NOWHERE} --level=embedding', '--level=embedding', '<map|patch|header|landcover>'),
  embedding('bad date', '--source=synthetic --bounds=12.2,52.3,12.3,52.4 --date=15.6.2018',
            "--date='15.6.2018' is no YYYY-MM-DD"),
  embedding('unknown source', '--source=syntetic', "source 'syntetic'. Known: bigearthnet", "mean 'synthetic'?"),
  embedding('unknown option of a source', f'{NOWHERE} --bounds=12.2,52.3,12.3,52.4 --option=sead=1',
            "unexpected keyword argument 'sead'", 'Its arguments: seed'),
  embedding('option of the wrong type', f'{NOWHERE} --bounds=12.2,52.3,12.3,52.4 --option=seed=x',
            "seed must be of type int; found 'x'"),
  embedding('option without a value', f'{NOWHERE} --option=seed', "--option='seed' is no key=value"),
  scenes('no checkpoint', f'{BOTH} --checkpoint={{made}}/folder', 'No checkpoint in {made}/folder',
         '`python -m deepsentinel.main --config='),
  scenes('empty checkpoint folder', f'{BOTH} --checkpoint={{made}}/empty_run --stage=finetune',
         'No finetune checkpoint in {made}/empty_run', '`python -m deepsentinel.main'),
  scenes('damaged checkpoint', f'{BOTH} --checkpoint={{made}}/damaged_run',
         'checkpoint in {made}/damaged_run/finetune/checkpoints is damaged', 'Run the command that trained it'),
  scenes('scene that is not there', '--s2={made}/absent', 'Nothing found at {made}/absent', 'State a folder'),
  scenes('scene of unknown unit', f'{BOTH} --s2_unit=', 'in what unit', 'State s2_unit=...', 'reflectance_x1e4'),
  scenes('scene of a misspelt unit', f'{BOTH} --s2_unit=reflectence', "unit 'reflectence'", 'Known: reflectance'),
  scenes('radar of unknown quantity', f'{BOTH} --s1_quantity=', 'radar quantity is written nowhere',
         'State s1_quantity=', 'sigma0_ellipsoid, gamma0_ellipsoid'),
  scenes('radar of another quantity', f'{BOTH} --s1_quantity=gamma0_terrain',
         'trained on radar sigma0_ellipsoid; these pixels are gamma0_terrain', 'fetch the same product'),
  scenes('scene with bands missing', '--s2={made}/S2_colours', 'these pixels have no B1, B5', 'sensor_dropout'),
  scenes('optical scene in wrong units', f'{BOTH} --s2_unit=reflectance', 'Sentinel-2 values have a median of 1500',
         'which is no reflectance (0 to about 1)', "State unit='reflectance_x1e4'"),
  scenes('radar scene in wrong units', f'{BOTH} --s1_unit=power', 'Sentinel-1 values have a median of -12.0',
         'which is no linear power', "State unit='db'"),
  scenes('scene of another level', f'{BOTH} --option=s2_level="L1C"', 'trained on Sentinel-2 L2A; these pixels are L1C',
         'Use L2A scenes'),
  scenes('product of another level', '--s2={made}/S2A_MSIL1C_20180615T101031_N0206_R022_T33UUP.tif',
         'is L1C, L2A is stated'),
  scenes('scene without a CRS', '--s2={made}/S2_floating', 'has no georeference (CRS and transform)', 'gdal_edit.py'),
  scenes('bands stated in another order than the file says',
         '--s2={made}/S2_colours --option=s2_bands=["B4","B3","B2"]',
         'is described as B2, B3, B4; B4, B3, B2 are stated'),
  scenes('bands in another order', '--s2={made}/S2_permuted --s1={made}/S1_whole', 'they seem to be permuted',
         '--nocheck_bands'),
  scenes('sensors that do not overlap', '--s2={made}/S2_whole --s1={made}/S1_elsewhere',
         'Scene S1_elsewhere does not touch the area', 'or another scene'),
  scenes('area outside the scene', f'{BOTH} --bounds=20,48,20.1,48.1', 'does not touch the area',
         'Pass --bounds or --area inside the scene'),
  scenes('one sensor of two', '--s2={made}/S2_whole', 'these pixels have no VV, VH', 'sensor_dropout'),
  scenes('output folder that is a file', f'{BOTH} --out={{made}}/file', '{made}/file/embedding.json: Not a directory',
         'choose another folder'),
  scenes('header without fine-tuning', f'{BOTH} --stage=pretrain --level=header', '--level=header needs a fine-tuned'),
  scenes('land cover without fine-tuning', f'{BOTH} --stage=pretrain --level=landcover',
         '--level=landcover needs a fine-tuned model', 'python -m deepsentinel.main'),
]  # fmt: skip


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp('inputs')
  broken_inputs.make(folder)
  return folder


@pytest.mark.parametrize('trial', TRIALS, ids=lambda trial: trial.name)
def test_one_sentence(trial, made, tmp_path):
  trials.check(trial, SECTION, made, tmp_path / 'out')


def test_the_table_holds_these_trials():
  trials.check_names(SECTION, [trial.name for trial in TRIALS])


def test_a_mistake_of_the_program_keeps_its_traceback(made, tmp_path):
  """Only bad input is one sentence: what raises anything else is shown as it is."""
  (tmp_path / 'mine.py').write_text('class Broken:\n  def __init__(self):\n    raise ZeroDivisionError("a bug")\n')
  finished = commands.run(
    EMBED, f'--checkpoint={made}/run', f'--out={tmp_path}/out', '--source=mine:Broken', '--bounds=12,52,12.1,52.1',
    '--date=2018-06-15', cwd=tmp_path,
  )  # fmt: skip
  assert finished.code == 1
  assert 'Traceback' in finished.err
  assert 'ZeroDivisionError: a bug' in finished.err


def test_verbosity_shows_the_traceback(made):
  finished = commands.run(DESCRIBE, QUICKSTART, '--config.encoder.name=vit', '--verbosity=1')
  assert finished.code == 1
  assert 'Traceback' in finished.err
  assert finished.err.rstrip().splitlines()[-1].startswith("error: Unknown encoder 'vit'")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_mended_by_the_same_command(made, tmp_path):
  """As the message of 'damaged checkpoint' promises: the run is finished, and the command repairs it all the same."""
  workdir = tmp_path / 'run'
  shutil.copytree(made / 'run', workdir)
  for stage in ('pretrain', 'finetune'):
    newest = max((workdir / stage / 'checkpoints').iterdir(), key=lambda folder: int(folder.name))
    for file in (newest / 'variables').rglob('*'):
      if file.is_file():
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match='is damaged'):
      checkpoint.load_trained(workdir, stage)
  # As if it had been stopped while it was repaired before: what its journal says is of a model that is lost.
  about = json.loads((workdir / 'experiment.json').read_text())
  assert experiment._is_whole(made / 'run' / 'finetune', about['stages']['finetune'])
  about['stages']['finetune']['sha256'] = 'of another model'
  assert not experiment._is_whole(made / 'run' / 'finetune', about['stages']['finetune'])
  (workdir / 'experiment.json').write_text(json.dumps(about))
  (workdir / 'test.json').write_text('{}')
  flags = [a.format(made=made) for a in broken_inputs.TRAINING]
  finished = commands.run(MAIN, *flags, f'--workdir={workdir}')
  assert finished.code == 0, finished.err
  assert 'is damaged' in finished.err
  tested, expected = (json.loads((run / 'test.json').read_text()) for run in (workdir, made / 'run'))
  assert tested['methods']['model']['confusion'] == expected['methods']['model']['confusion']
  assert 'Traceback' not in finished.err
  for stage in ('pretrain', 'finetune'):
    assert checkpoint.load_trained(workdir, stage).sha256 == checkpoint.load_trained(made / 'run', stage).sha256


def test_after_wrong_units_the_right_ones_go_into_the_same_folder(made, tmp_path):
  """And units that differ are another embedding, whose strips are not mixed with these."""
  flags = ' '.join([BOTH, TIMES, *STATED]).format(made=made).split()
  command = [EMBED, f'--checkpoint={made}/run', f'--out={tmp_path}/out', '--noprogress', *flags]
  assert 'which is no reflectance' in commands.run(*command, '--s2_unit=reflectance').error
  finished = commands.run(*command, '--s2_unit=reflectance_x1e4')
  assert finished.code == 0, finished.err
  assert (tmp_path / 'out' / 'embedding.tif').exists()
  error = commands.run(*command, '--s2_unit=reflectance_x1e4_plus1000').error
  assert 'holds another embedding (inputs: ' in error
  assert 'Pass another --out' in error
