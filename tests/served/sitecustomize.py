"""Python runs this at its start where its folder is on PYTHONPATH: see `commands.served`.

A process that was started for a command of the project asks the tests to fork one that has the libraries loaded, and
waits for its end. Any other process goes on as if nothing were here.
"""

import os
import sys


def command() -> list[str]:
  """Module and arguments of the command that this process was started for; [] for anything else."""
  words = sys.orig_argv[1:]
  if words[:1] == ['-m'] and words[1].partition('.')[0] in ('deepsentinel', 'tensorflow_datasets'):
    return words[1:]
  if words and os.path.basename(words[0]) == 'tfds':
    return ['tensorflow_datasets.scripts.cli.main', *words[1:]]
  return []


def hand_over(address: str, words: list[str]) -> int:
  """The exit status of the command; it writes where this process would have."""
  from multiprocessing import connection

  with connection.Client(address) as tests:
    streams = [f'/proc/{os.getpid()}/fd/{number}' for number in (1, 2)]
    tests.send((words[0], words[1:], os.getcwd(), dict(os.environ), *streams))
    return tests.recv()


if 'DEEPSENTINEL_TESTS' in os.environ and (words := command()):
  os._exit(hand_over(os.environ['DEEPSENTINEL_TESTS'], words))
