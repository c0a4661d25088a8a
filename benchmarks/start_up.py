"""How long does a user wait: for --help of every command, for `import deepsentinel`, for the first training step?

    python benchmarks/start_up.py [--repeats=3] [--data_dir=DIR] [--nosteps]

Each runs in a fresh interpreter, in turn with one that imports JAX alone, as any project of this kind would do first.
Wanted are 2 s for --help, and 10 s from the command to the first step of training with a warm compilation cache: the
small twin of ResNet18, Tile2Vec, on patches of 64 px of SyntheticEarth. Those records are made once by the project's
own commands (minutes) and kept in .cache/benchmarks; --data_dir takes records named .../demo that are there.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import sidebyside

ROOT = pathlib.Path(__file__).resolve().parent.parent
_HOME = pathlib.Path('.cache/benchmarks').absolute()
_LIMIT_S = 300.0


def commands() -> list[list[str]]:
  """Every command, as it is typed after `python`."""
  found = []
  for path in [*sorted((ROOT / 'deepsentinel').rglob('*.py')), *sorted((ROOT / 'launch').rglob('*.py'))]:
    if 'commandline.run(' in path.read_text() and path.name != 'commandline.py':
      parts = path.relative_to(ROOT).with_suffix('').parts
      module = '.'.join(parts).removesuffix('.__main__')
      found.append(['-m', module] if parts[0] == 'deepsentinel' else [str(path)])
  return found


def environment(**more: str) -> dict[str, str]:
  paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH', '')]))
  return {**os.environ, 'PYTHONPATH': paths, **more}


def seconds(arguments: Sequence[str], said: str = '') -> float:
  """Of a fresh interpreter, which has to print `said`."""
  start = time.perf_counter()
  done = subprocess.run(
    [sys.executable, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
  )
  passed = time.perf_counter() - start
  if said not in done.stdout or (not said and done.returncode):
    raise SystemExit(f'{" ".join(arguments)} ended with {done.returncode}:\n{done.stderr}')
  return passed


def make_records(home: pathlib.Path) -> pathlib.Path:
  """Prepared records of SyntheticEarth, labelled and not, below `home`; made once."""
  for kind in ('labelled', 'unlabelled'):
    if list((home / f'deepsentinel_{kind}/demo').glob('*/dataset_info.json')):
      continue
    corpus, builder = home / kind, f'tfds_builders/deepsentinel_{kind}'
    for command in (
      ['-m', 'deepsentinel.corpus', f'--config=configs/corpora/demo_{kind}.py', f'--out={corpus}',
       '--config.patches=120', '--config.patch_px=64'],
      ['-m', 'tensorflow_datasets.scripts.cli.main', 'build', builder, '--config=demo', f'--data_dir={home}'],
    ):  # fmt: skip
      variables = environment(DEEPSENTINEL_CORPUS=str(corpus))
      subprocess.run([sys.executable, *command], cwd=ROOT, env=variables, check=True)
  return home


def first_step(data_dir: pathlib.Path, variables: Mapping[str, str]) -> float:
  """Seconds from the command to the first row of metrics.csv, which is written after one step; then it is ended."""
  with tempfile.TemporaryDirectory() as workdir:
    rows = pathlib.Path(workdir, 'pretrain/metrics.csv')
    command = [
      sys.executable, '-m', 'deepsentinel.main', '--config=configs/t2v_resnet18.py:small', f'--workdir={workdir}',
      f'--config.data.data_dir={data_dir}', '--config.data.unlabelled=deepsentinel_unlabelled/demo',
      '--config.data.labelled=deepsentinel_labelled/demo', '--config.data.crop_px=64', '--config.log_every_steps=1',
      '--noprogress',
    ]  # fmt: skip
    start = time.perf_counter()
    with tempfile.TemporaryFile('w+') as said:
      process = subprocess.Popen(
        command, cwd=ROOT, env=environment(**variables), stdout=said, stderr=said, start_new_session=True
      )
      try:
        while not (rows.exists() and len(rows.read_text().splitlines()) > 1):
          if process.poll() is not None or time.perf_counter() - start > _LIMIT_S:
            said.seek(0)
            raise SystemExit(f'No step was made:\n{said.read()}')
          time.sleep(0.01)
        return time.perf_counter() - start
      finally:
        if process.poll() is None:
          os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--repeats', type=int, default=3, help='alternating runs')
  parser.add_argument('--data_dir', type=pathlib.Path, help='holds records .../demo of 64 px or more')
  parser.add_argument('--nosteps', action='store_true', help='only --help and the import')
  options = parser.parse_args()
  all_of_them = commands()
  slowest = {}

  def every_help() -> float:
    took = {' '.join(command): seconds([*command, '--help'], '--helpfull') for command in all_of_them}
    slowest['name'] = max(took, key=lambda command: took[command])
    return took[slowest['name']]

  ways = {
    'help': every_help,
    'import': lambda: seconds(['-c', 'import deepsentinel']),
    'jax': lambda: seconds(['-c', 'import jax']),
  }
  if not options.nosteps:
    data_dir = (options.data_dir or make_records(_HOME / 'start_up')).absolute()
    variables = {'JAX_COMPILATION_CACHE_DIR': str(_HOME / 'jax')}
    ways['step'] = lambda: first_step(data_dir, variables)  # the run that is not counted warms the cache
  times = sidebyside.alternate(ways, options.repeats)
  rows = [
    sidebyside.Row(f'--help, the slowest of {len(all_of_them)} commands', '`import jax` alone', 's', times['help'],
                   times['jax'], 0, f'wanted: 2 s; {slowest["name"].removeprefix("-m ")}'),
    sidebyside.Row('`import deepsentinel`', '`import jax` alone', 's', times['import'], times['jax']),
  ]  # fmt: skip
  if 'step' in times:
    stage = 'first training step of the small ResNet18, warm compilation cache'
    rows.append(sidebyside.Row(stage, '', 's', times['step'], (), 0, 'wanted: 10 s'))
  sidebyside.leave(__file__, rows)


if __name__ == '__main__':
  main()
