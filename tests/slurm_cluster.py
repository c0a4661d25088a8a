"""A Slurm of the tests' own: the real daemons, one node on loopback, all files in one folder."""

import contextlib
import getpass
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable

_DAEMONS = ('munged', 'slurmctld', 'slurmd')
_PATH = f'{os.environ["PATH"]}:/usr/sbin:/usr/local/sbin'
# cred_expire: a job waits this long before it begins again; 5 s is the least. The timeouts are for a busy machine.
_CONF = """
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
MailProg=/bin/true
BatchStartTimeout=120
KillWait=120
MessageTimeout=60
GresTypes=gpu
NodeName=localhost CPUs={cpus} RealMemory=1000 Gres=gpu:8
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE
"""


def why_not() -> str:
  """Why there can be no Slurm here; '' if there can."""
  missing = [name for name in (*_DAEMONS, 'sbatch') if not shutil.which(name, path=_PATH)]
  if missing:
    return f'{", ".join(missing)} not installed; on Debian: apt-get install slurm-wlm'
  return '' if os.geteuid() == 0 else 'the daemons of Slurm are tried as root only'


class Cluster:
  """A running Slurm; `environment` is what its commands need to find it. To be closed.

  Args:
    folder: for its files; a short path, since a socket's may have 107 bytes.
    cpus: of the node, as declared.
  """

  def __init__(self, folder: pathlib.Path, cpus: int = 4):
    self._folder = folder
    for name in ('state', 'spool'):
      (folder / name).mkdir()
    (folder / 'munge.key').write_bytes(os.urandom(128))
    (folder / 'munge.key').chmod(0o600)
    conf = folder / 'slurm.conf'
    conf.write_text(_CONF.format(folder=folder, ports=_free_ports(2), user=getpass.getuser(), cpus=cpus))
    for number in range(8):  # GPUs need files; no program opens these
      (folder / f'gpu{number}').touch()
    (folder / 'gres.conf').write_text(f'Name=gpu File={folder}/gpu[0-7]\n')
    self.environment = {'SLURM_CONF': str(conf), 'PATH': _PATH}
    files = (f'--{kind}-file={folder}/munge.{kind}' for kind in ('key', 'log', 'pid', 'seed'))
    self._processes: list[subprocess.Popen] = []
    try:
      self._start('munged', '--foreground', '--force', f'--socket={folder}/munge.socket', *files)
      self._wait(lambda: (folder / 'munge.socket').exists())
      self._start('slurmctld', '-D', '-f', str(conf))
      self._start('slurmd', '-D', '-f', str(conf), '-N', 'localhost')
      self._wait(lambda: self._state() == 'idle')
    except BaseException:
      self.close()
      raise

  def _start(self, *command: str) -> None:
    with (self._folder / f'{command[0]}.out').open('w') as out:
      # They end with this process, however it ends.
      command = ('setpriv', '--pdeathsig', 'TERM', *command)
      environment = {**os.environ, **self.environment}
      self._processes.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment))

  def _state(self) -> str:
    command = ['sinfo', '-h', '-o', '%T']
    environment = {**os.environ, **self.environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout.strip()

  def _wait(self, reached: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
      said = {path.name: path.read_text()[-2000:] for path in self._folder.glob('*.out')}
      alive = all(process.poll() is None for process in self._processes)
      assert alive, f'a daemon of Slurm ended: {said}'
      assert time.monotonic() < deadline, f'Slurm does not start: {said}'
      time.sleep(0.05)

  def close(self) -> None:
    """Ends the jobs and the daemons."""
    for process in reversed(self._processes):
      process.terminate()
    for process in self._processes:
      try:
        process.wait(10)
      except subprocess.TimeoutExpired:
        process.kill()
    # What a daemon started, jobs too, has its environment.
    deadline = time.monotonic() + 10
    while (left := self.remains()) and time.monotonic() < deadline:
      for pid in left:
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)
      time.sleep(0.1)
    assert not left, f'processes of Slurm that do not end: {left}'

  def remains(self) -> list[int]:
    """Processes that were started by the daemons, or are one."""
    mark, found = f'SLURM_CONF={self.environment["SLURM_CONF"]}'.encode(), []
    for process in pathlib.Path('/proc').glob('[0-9]*'):
      try:
        if int(process.name) != os.getpid() and mark in (process / 'environ').read_bytes():
          found.append(int(process.name))
      except OSError:
        continue  # it ended, or is another user's
    return found


def _free_ports(number: int) -> list[int]:
  sockets = [socket.socket() for _ in range(number)]
  for one in sockets:
    one.bind(('127.0.0.1', 0))
  ports = [one.getsockname()[1] for one in sockets]
  for one in sockets:
    one.close()
  return ports
