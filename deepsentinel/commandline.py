"""How every command starts, and how it fails: bad input ends it with one sentence on stderr instead of a traceback."""

import errno
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType

from absl import app, flags, logging

# What bad input raises. Anything else is a mistake of the program and keeps its traceback.
BAD_INPUT = (ValueError, OSError)
_MENDS = {
  errno.ENOENT: 'Check the path.',
  **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), 'Choose a folder that you may write to.'),
  **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), 'A file is where a folder is needed: choose another folder.'),
  **dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), 'Make room and run the same command again: what was done is kept.'
  ),
}


def run(
  main: Callable[[list[str]], None],
  *,
  required: Sequence[str] = (),
  settings: str = '',
  arguments: str = '',
  words: Sequence[str] = (),
  resumes: bool = False,
) -> None:
  """Parses the flags, runs `main` and ends the process: status 0, or 1 with one sentence on stderr after bad input.

  With --verbosity=1 the traceback is shown as well.

  Args:
    main: takes the positional arguments.
    required: flags that must be given.
    settings: the file that lists every key of --config; '' for a command without one.
    arguments: what its positional arguments are, e.g. 'RUN...'; '' for a command that takes none.
    words: what may stand first in place of nothing, each a command of its own.
    resumes: the same command goes on after an interruption, which a Ctrl-C then says.
  """

  def checked(argv: list[str]) -> None:
    if argv[1:] and not arguments:
      hint = '; values are given as --config.KEY=VALUE' if settings else ''
      hint += f'; the first word may be {" or ".join(words)}' if words else ''
      raise ValueError(f'Unexpected argument(s) {" ".join(argv[1:])}{hint}. --help lists the flags.')
    if arguments and not argv[1:]:
      raise ValueError(f'No {arguments} given. --help shows how the command is used.')
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    main(argv[1:])

  show_errors_in_one_sentence(resumes=resumes)
  flags.mark_flags_as_required(required)
  app.run(checked, flags_parser=lambda argv: _parse(argv, settings))


def show_errors_in_one_sentence(*, resumes: bool = False) -> None:
  """From now on bad input that ends this process is shown as 'error: ...', a Ctrl-C as 'Stopped ...'."""

  def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # C++ libraries report here what fails in threads of their own (TensorStore, after a read that failed); the process
    # does not end with it.
    if threading.current_thread() is not threading.main_thread():
      logging.debug('in a background thread', exc_info=error)
      return
    if logging.level_debug():
      traceback.print_exception(kind, error, trace)
    if isinstance(error, BAD_INPUT):
      print(f'error: {sentence(error)}', file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
      print('Stopped; the same command goes on.' if resumes else 'Stopped.', file=sys.stderr)
    elif not logging.level_debug():
      traceback.print_exception(kind, error, trace)

  sys.excepthook = show


def sentence(error: BaseException) -> str:
  """The message of an error on one line; of the system's own errors the file, the reason and the mend."""
  if isinstance(error, OSError) and error.strerror:
    mend = _MENDS.get(error.errno or 0, '')
    return f'{error.filename or "a file"}: {error.strerror}. {mend}'.strip()
  return ' '.join(str(error).split()) or type(error).__name__


def _parse(argv: list[str], settings: str) -> list[str]:
  """Parses flags and configuration; ValueError with one sentence for whatever is wrong with them."""
  try:
    rest = flags.FLAGS(argv)
    if settings and flags.FLAGS['config'].present:
      flags.FLAGS.config.keys()  # a file that cannot be opened is noticed only now
    return rest
  except flags.Error as error:
    # A config file that raises is reported with its traceback, of which the last line is what it said.
    _, in_file, said = str(error).partition('Error whilst parsing config file:')
    if in_file:
      raise ValueError(_stopped(said.strip().splitlines()[-1].partition(': ')[2].strip())) from error
    raise ValueError(f'{_stopped(sentence(error))} --help lists the flags.') from error
  except (AttributeError, KeyError, TypeError, ValueError, OSError, ImportError, SyntaxError) as error:
    raise ValueError(_config_error(argv, error, settings)) from error


def _config_error(argv: list[str], error: Exception, settings: str) -> str:
  """What is wrong in a configuration: in its file, or in a flag that changes one of its keys."""
  file = _config_file(argv)
  example = f'Pass a Python file with get_config(), such as those in {settings.rpartition("/")[0]}/.'
  cause: object = error.args[0] if isinstance(error, KeyError | AttributeError) and error.args else error
  # ml_collections wraps its KeyError, 'name' and a suggestion on a line of its own, in an AttributeError.
  cause = cause.args[0] if isinstance(cause, KeyError) else cause
  reason = _stopped('. '.join(line.strip() for line in str(cause).strip().splitlines()))
  path = file.partition(':')[0]  # without what follows it: a size, a platform
  lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
  if isinstance(error, OSError):
    found = 'is a folder' if os.path.isdir(path) else 'cannot be read' if os.path.exists(path) else 'is not there'
    return f'--config={file} {found}. {example}'
  if isinstance(error, SyntaxError) or "no attribute 'get_config'" in reason:
    return f'--config={file} is no configuration: {reason} {example}'
  if lines:
    return f'{path}, line {lines[-1]}: {reason} {settings} lists every key.'
  if isinstance(error, AttributeError | KeyError):
    return f'Unknown key of the configuration: {reason} {settings} lists every key.'
  return f'{reason} {settings} lists every key.'


def _config_file(argv: list[str]) -> str:
  """The value of --config, behind '=' or as the next word; '' without one."""
  for word, after in zip(argv, [*argv[1:], ''], strict=True):
    flag, given, value = word.partition('=')
    if flag in ('--config', '-config'):
      return value if given else after
  return ''


def _stopped(text: str) -> str:
  """With a full stop, or whatever ends the sentence."""
  return text if text.endswith(('.', '?', '!')) else f'{text}.'
