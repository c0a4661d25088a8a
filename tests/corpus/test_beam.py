"""Fetching through Apache Beam: in its own runner, and by the protocol that Flink and Spark speak, on loopback.

There Beam's job server stands for the cluster's, and its worker pool, a process of its own, for the cluster's workers.
"""

import collections
import os
import pathlib
import signal
import sys

import pytest

from deepsentinel import corpus
from deepsentinel.corpus import beam, manifest, staging
from tests import commands, servers
from tests.corpus.test_sample import hashes
from tests.corpus.tiny_config import get_config

pytestmark = pytest.mark.slow

WATCHED = 'tests.corpus.tiny_source:WatchedEarth'


@pytest.fixture(scope='module')
def portable(tmp_path_factory):
  """Options of Beam for a job server and a pool of workers."""
  folder, job, pool = tmp_path_factory.mktemp('servers'), servers.free_port(), servers.free_port()
  server = [sys.executable, '-m', 'apache_beam.runners.portability.local_job_service_main', f'--port={job}']
  workers = [sys.executable, '-m', 'apache_beam.runners.worker.worker_pool_main', f'--service_port={pool}']
  # The pool starts `python`, and a cluster's image has the package.
  path = f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'
  here = {'PATH': path, 'PYTHONPATH': str(commands.ROOT)}
  with servers.serving(server, job, folder), servers.serving(workers, pool, folder, **here):
    yield f'--job_endpoint=localhost:{job} --environment_type=EXTERNAL --environment_config=localhost:{pool}'


@pytest.fixture(scope='module')
def sampled(tmp_path_factory):
  return corpus.run(get_config(), tmp_path_factory.mktemp('corpus') / 'tiny')


def watched(**arguments):
  config = get_config()
  config.source = {'name': WATCHED, **arguments}
  config.workers = 2
  return config


def assert_same(made, sampled):
  assert hashes(made.path) == hashes(sampled.path)
  assert made.manifest().equals(sampled.manifest())


@pytest.mark.parametrize('runner', ['BundleBasedDirectRunner', 'PortableRunner'])
def test_the_corpus_is_that_of_one_machine(runner, request, sampled, tmp_path, capfd):
  options = request.getfixturevalue('portable') if runner == 'PortableRunner' else ''
  config, place = get_config(), tmp_path / 'staging'
  config.workers = 3
  made = corpus.run(config, tmp_path / 'tiny', cluster=beam.Cluster(runner, str(place), options))
  assert_same(made, sampled)
  assert list(place.iterdir()) == []
  said = capfd.readouterr().err
  assert '12/12' in said
  assert 'WARNING' not in said, "Beam's own words belong into its log"
  assert (made.path / beam.LOG).stat().st_size


def test_what_fails_is_recorded_and_comes_with_retry_failed(sampled, tmp_path, capfd):
  place, mended = tmp_path / 'staging', tmp_path / 'mended'
  config = watched(mended=str(mended), broken=0.4)
  cluster = beam.Cluster('BundleBasedDirectRunner', str(place))
  made = corpus.run(config, tmp_path / 'tiny', cluster=cluster)
  failed = made.manifest().query('state == "failed"')
  assert set(failed['reason']) == {'sentinel1: OSError: the archive does not answer'}
  assert 0 < len(failed) < 12
  assert f'failed {len(failed)} ({len(failed)} OSError)' in capfd.readouterr().err
  mended.touch()
  assert_same(corpus.run(config, tmp_path / 'tiny', retry_failed=True, cluster=cluster), sampled)


def test_the_driver_is_killed_and_the_same_command_goes_on(portable, sampled, tmp_path):
  """It stands still for a while first, so that patches are staged which it has not taken; the workers live on."""
  place, folder, log = tmp_path / 'staging', tmp_path / 'tiny', tmp_path / 'log'
  (tmp_path / 'config.py').write_text(
    'from tests.corpus import test_beam\n\n\ndef get_config():\n'
    f'  return test_beam.watched(log={str(log)!r}, delay_s=0.1)\n'
  )
  command = ['deepsentinel.corpus', f'--config={tmp_path}/config.py', f'--out={folder}']
  command += ['--runner=PortableRunner', f'--staging={place}', f'--beam_options={portable}']
  process = commands.Running(*command)

  def journaled():
    return {row['id'] for row in manifest.journal_rows(folder) if row['state'] == 'done'}

  def staged():
    return {path.stem for path in place.glob('run-*/rows/*.json')}

  process.wait_until(lambda: len(journaled()) >= 2)
  os.kill(process.pid, signal.SIGSTOP)
  process.wait_until(lambda: len(staged() - journaled()) >= 2)
  process.kill()
  there, taken = staged(), journaled()
  assert len(there - taken) >= 2
  assert len(there) < 12, 'all was fetched when it was killed'
  result = commands.run(*command)
  assert result.code == 0, result.err
  assert 'Taking what was fetched: 100%' in result.err
  made = corpus.Corpus(folder)
  assert_same(made, sampled)
  assert list(place.iterdir()) == []
  reads = collections.Counter(log.read_text().splitlines())
  ids = {f'{row.epsg} {row.x0_m:.0f} {row.y0_m:.0f}': row.id for row in made.manifest().itertuples()}
  times = {ids[read.partition(' ')[2]]: count for read, count in reads.items()}
  assert set(times) == set(ids.values())
  assert all(times[i] == 1 for i in there)
  again = [i for i, count in times.items() if count > 1]
  assert len(again) <= 2, 'more than the workers had in hand was fetched twice'


@pytest.mark.parametrize(('dies', 'reason'), [(False, 'no licence on this machine'), (True, 'it was killed')])
def test_a_pipeline_that_fails_is_one_error(tmp_path, dies, reason):
  config = watched(only_in=os.getpid(), dies=dies)
  cluster = beam.Cluster('BundleBasedDirectRunner', str(tmp_path / 'staging'))
  with pytest.raises(ValueError, match=f'The pipeline of BundleBasedDirectRunner failed: {reason}') as error:
    corpus.run(config, tmp_path / 'tiny', cluster=cluster)
  assert '12 of 12 patches are not fetched, the others are kept' in str(error.value)
  assert 'run the same command again' in str(error.value)


def test_a_corpus_is_no_staging_place(sampled):
  with pytest.raises(ValueError, match=r'is not empty \(.*corpus\.html, corpus\.json'):
    staging.Staging(str(sampled.path)).claim(sampled.card['config'])


def test_a_job_server_that_is_not_there_is_said(tmp_path):
  options = f'--job_endpoint=localhost:{servers.free_port()} --job_server_timeout=2 --environment_type=LOOPBACK'
  cluster = beam.Cluster('PortableRunner', str(tmp_path / 'staging'), options)
  with pytest.raises(ValueError, match='The pipeline of PortableRunner failed: its job server does not answer'):
    corpus.run(get_config(), tmp_path / 'tiny', cluster=cluster)


def test_a_place_that_only_the_workers_reach_is_said(tmp_path):
  """memory:// is another one in each process."""
  with pytest.raises(ValueError, match='failed: a worker finds nothing at memory://x, so it is another place there'):
    corpus.run(get_config(), tmp_path / 'tiny', cluster=beam.Cluster('BundleBasedDirectRunner', 'memory://x'))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('FlunkRunner', 'x'), r"Unknown runner 'FlunkRunner'\. Known: .*DataflowRunner, .*FlinkRunner, .*SparkRunner"),
    (('no.such.Runner', 'x'), r'--runner=no\.such\.Runner needs a package that is not installed'),
    (('FlinkRunner', ''), r'--runner=FlinkRunner needs --staging=URL, a place that its workers and this machine reach'),
    (('FlinkRunner', 'x', '--runner=SparkRunner'), 'give it as a flag of its own'),
    (('FlinkRunner', 'x', '--num_workers=many'), r"--beam_options='--num_workers=many': argument --num_workers: inv"),
    (('FlinkRunner', 'x', '--environment_options="a'), 'No closing quotation'),
    (('DataflowRunner', 'folder'), r'--staging=folder is a folder, which Dataflow does not reach. Pass gs://'),
    (('FlinkRunner', 's3://bucket/x'), r'needs a package that is not installed: pip install s3fs'),
    (('FlinkRunner', 'gopher://x'), r'Pass a folder or a URL'),
  ],
)
def test_what_cannot_run_is_said_first(arguments, message, monkeypatch, capfd):
  monkeypatch.setitem(sys.modules, 's3fs', None)
  with pytest.raises(ValueError, match=message):
    beam.Cluster(*arguments)
  assert 'usage:' not in capfd.readouterr().err
