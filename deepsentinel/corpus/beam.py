"""Fetching on other machines: an Apache Beam pipeline for Dataflow, Flink, Spark or any other of its runners.

The rows are dealt into as many shares as there are `workers`, and a share is fetched by one worker after another, so no
more than `workers` patches are asked for at a time, whatever the runner starts. Workers leave what they fetched in a
staging place (staging.py); meanwhile this machine takes it into the corpus folder and its journal. So the manifest here
is the truth, and a kill of either side loses nothing.
"""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deepsentinel.corpus import staging, worker

LOG = '.beam.log'
_LEAST_S, _MOST_S = 0.3, 60.0  # between two looks at what is staged
_PATIENCE = '--job_server_timeout=60'  # seconds; Beam's own 300 are long for an address that is wrong
_END_S = 20  # for a pipeline to end by itself once every patch is here

# A runner may give several shares to threads of one process, but GDAL's files are of one thread at a time.
_fetching = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Machines that fetch.

  Attributes:
    runner: a name of Beam's, such as DataflowRunner, FlinkRunner or SparkRunner.
    staging: URL of a place that the workers and this machine reach, e.g. gs://BUCKET/staging, or a shared folder.
    options: Beam's, as on a command line: '--project=... --region=...'.
  Raises:
    ValueError: a runner that is not known or not installed, options it does not take, or no place to stage.
  """

  runner: str
  staging: str
  options: str = ''

  def __post_init__(self) -> None:
    if not self.staging:
      raise ValueError(
        f'--runner={self.runner} needs --staging=URL, a place that its workers and this machine reach: '
        'gs://BUCKET/NAME, az://CONTAINER/NAME, or a shared folder.'
      )
    place = staging.Staging(self.staging)
    if 'dataflow' in self.runner.lower() and place.is_local:
      raise ValueError(f'--staging={self.staging} is a folder, which Dataflow does not reach. Pass gs://BUCKET/NAME.')
    _options(self.runner, self.options)

  def left(self, chosen: Mapping[str, Any], folder: pathlib.Path, rows: Mapping[str, Mapping[str, Any]]) -> 'Left':
    """What an earlier run fetched that is not in the corpus yet.

    Raises:
      ValueError: the place holds patches of another corpus, or something else.
    """
    place = staging.Staging(self.staging)
    run = place.claim(chosen)
    ids = sorted(i for i in place.ids(run) if i in rows and rows[i]['state'] != 'done') if run else []
    return Left(ids, _left(place, run, ids, folder) if run else iter(()))

  def results(
    self, chosen: Mapping[str, Any], folder: pathlib.Path, rows: Sequence[Mapping[str, Any]]
  ) -> Iterator[dict[str, Any]]:
    """Fetched rows, as they arrive; their files are then in the corpus folder.

    When the next row is asked for, the last has to be written down: its files are removed from the staging place.

    Args:
      chosen: checked settings of the corpus.
      folder: the corpus folder.
      rows: planned rows.
    Raises:
      ValueError: the pipeline failed, or ended without every row; what was fetched is kept.
    """
    place, run = staging.Staging(self.staging), f'run-{uuid.uuid4().hex}'
    shares = max(1, min(chosen['workers'], len(rows)))
    place.begin(run, chosen, rows, shares)
    awaited = {row['id'] for row in rows}
    context = multiprocessing.get_context('spawn')
    reader, writer = context.Pipe(duplex=False)
    arguments = (self, chosen, run, shares, str(folder / LOG), writer)
    pipeline = context.Process(target=_run, args=arguments)
    pipeline.start()
    writer.close()  # the other end is the child's, so its end is seen here
    ended = False
    try:
      while awaited and not ended:
        ended = reader.poll()  # it said how it ended, or is gone; before the last look, which then sees all
        start = time.monotonic()
        there = sorted(place.ids(run) & awaited)
        pause_s = min(max(_LEAST_S, 10 * (time.monotonic() - start)), _MOST_S)
        for row in place.take(run, there, folder):
          yield row
          awaited.discard(row['id'])
        if awaited and not ended:
          reader.poll(pause_s)
      if not awaited:
        reader.poll(_END_S)
    finally:
      try:
        place.end(run)
      finally:
        _stop(pipeline)
    if awaited:
      raise ValueError(self._failure(reader, len(awaited), len(rows), folder))
    place.clear(run)

  def _failure(
    self, reader: multiprocessing.connection.Connection, lacking: int, asked: int, folder: pathlib.Path
  ) -> str:
    """Why not every row came."""
    try:
      reason = reader.recv()
    except (EOFError, OSError):
      reason = 'it was killed'
    end = f'{lacking} of {asked} patches are not fetched, the others are kept. {folder / LOG} has its log; mend it and '
    end += 'run the same command again.'
    if reason:
      return f'The pipeline of {self.runner} failed: {reason.rstrip(".")}. {end}'
    return (
      f'The pipeline of {self.runner} ended, but not every patch came to --staging={self.staging}: another run took '
      f'that place over, or files there are damaged. {end}'
    )


@dataclasses.dataclass(frozen=True)
class Left:
  """Ids of rows that an earlier run staged, and the rows, as `Cluster.results` gives them."""

  ids: list[str]
  rows: Iterator[dict[str, Any]]


def _left(place: staging.Staging, run: str, ids: list[str], folder: pathlib.Path) -> Iterator[dict[str, Any]]:
  place.end(run)
  yield from place.take(run, ids, folder)
  place.clear(run)


def fetch_share(number: int, *, config_json: str, url: str, run: str) -> None:
  """On a worker: fetches a share of the rows, one after another, until none is left or the run is over.

  Args:
    number: of the share.
    config_json: checked settings of the corpus, as JSON.
    url: the staging place.
    run: the run's name.
  """
  place = staging.Staging(url)
  for row in place.share(run, number):
    with _fetching, tempfile.TemporaryDirectory() as folder:
      if not place.goes_on(run):
        return
      place.put(run, pathlib.Path(folder), worker.fetch_row(config_json, folder, row))


def _options(runner: str, options: str) -> Any:
  """Beam's PipelineOptions; ValueError with Beam's words where it does not have the runner or take the options.

  What they lack shows when the pipeline is made: that may ask the cloud.
  """
  logging.disable(logging.WARNING)  # Beam warns of Google's clients, which few want
  try:
    from apache_beam.options import pipeline_options  # here: it takes seconds, and only few fetch on other machines
    from apache_beam.runners.runner import create_runner
  except ImportError as e:
    raise ValueError(f'--runner={runner} needs Apache Beam ({e}): pip install apache-beam.') from e
  finally:
    logging.disable(logging.NOTSET)
  if '--runner' in options:
    raise ValueError('--beam_options has a --runner; give it as a flag of its own, --runner=NAME.')
  known = pipeline_options.StandardOptions.KNOWN_RUNNER_NAMES
  if '.' not in runner and runner not in known:
    raise ValueError(f'Unknown runner {runner!r}. Known: {", ".join(sorted(known))}.')
  said = io.StringIO()
  try:
    chosen = pipeline_options.PipelineOptions([_PATIENCE, *shlex.split(options), f'--runner={runner}'])
    with contextlib.redirect_stderr(said):
      chosen.get_all_options()  # reads them
    create_runner(runner)
    return chosen
  except SystemExit as e:  # of argparse
    wrong = said.getvalue().strip().rpartition('error: ')[2]
    raise ValueError(f'--beam_options={options!r}: {wrong}. It takes what Beam does.') from e
  except ImportError as e:
    raise ValueError(f"--runner={runner} needs a package that is not installed: {e}. pip install 'apache-beam[gcp]' "
                     'brings that of Dataflow.') from e  # fmt: skip
  except (ValueError, AttributeError, TypeError) as e:
    raise ValueError(f'--runner={runner} with --beam_options={options!r}: {_reason(e)}.') from e


def _run(
  cluster: Cluster, chosen: Mapping[str, Any], run: str, shares: int, log: str,
  answer: multiprocessing.connection.Connection,
) -> None:  # fmt: skip
  """In a process of its own: runs the pipeline to its end and sends why it failed, '' if it did not.

  It leads a session of its own, so that a Ctrl-C goes to the driver alone, and whatever it starts ends with it.
  """
  os.setsid()
  for stream in (1, 2):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream)

  def watch(parent: Any) -> None:
    parent.join()
    os.killpg(0, signal.SIGKILL)

  threading.Thread(target=watch, args=(multiprocessing.parent_process(),), daemon=True).start()
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what runs at the end of a process is run
  try:
    import apache_beam

    logging.getLogger().setLevel(logging.INFO)
    fetch = functools.partial(
      fetch_share, config_json=json.dumps(chosen), url=staging.Staging(cluster.staging).url, run=run
    )
    pipeline = apache_beam.Pipeline(options=_options(cluster.runner, cluster.options))
    _ = (
      pipeline
      | 'Shares' >> apache_beam.Create(range(shares), reshuffle=False)
      | 'Spread' >> apache_beam.Reshuffle()
      | 'Fetch' >> apache_beam.Map(fetch)
    )
    state = pipeline.run().wait_until_finish()
    answer.send('' if state in ('DONE', None) else f'it ended as {state}')
  except BaseException as e:
    logging.exception('the pipeline failed')
    answer.send(_reason(e))


def _reason(error: BaseException) -> str:
  """What an error of Beam says on the last line that names one: it brings whole tracebacks of its workers."""
  if type(error).__name__ == 'FutureTimeoutError':  # gRPC's, which says nothing
    return 'its job server does not answer'
  lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
  named = [line for line in lines if re.match(r'[\w.]*(Error|Exception)\b', line)]
  return (named[-1] if named else ' '.join(lines))[:300].rstrip('.')


def _stop(process: Any) -> None:
  """Ends a process and what it started: its runner may have a server, or containers, to stop."""
  process.join(1)
  if process.is_alive():
    process.terminate()
    process.join(5)
  if process.is_alive():
    os.killpg(process.pid, signal.SIGKILL)
  process.join()
