"""A real SLURM of two nodes on this machine, for the tests: munged, slurmctld and two slurmd.

Nodes share the machine's files, CPUs and loopback; each has a host name and a disk of its own.
Needs root and Debian's slurm-wlm and munge. All lies in one folder; nothing outlives `stop`.
"""

import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

NODES = ("node1", "node2")
SHUTDOWN_SECONDS = 10.0

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for so long before it starts again; the default is two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmdTimeout=30
MinJobAge=86400
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
NodeName=node[1-2] NodeAddr=127.0.0.1 NodeHostname=localhost Port={ports} CPUs=8 RealMemory=100000
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_tools() -> list[str]:
    """What this machine lacks for a cluster."""
    tools = ("munged", "slurmctld", "slurmd", "sbatch", "unshare")
    lacking = [tool for tool in tools if shutil.which(tool, path=_path()) is None]
    return lacking if os.geteuid() == 0 else [*lacking, "root"]


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Cluster:
    """Started by `start`; jobs by `sbatch`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.local = folder / "local"
        """A disk that each node has for itself."""
        self.environ = os.environ | {"PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
        # Coverage in every launcher and rank would cost minutes; other tests hit the same lines.
        for name in [n for n in self.environ if n.startswith(("SLURM_JOB", "COVERAGE_"))]:
            del self.environ[name]
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Write the configuration, start the daemons, wait for the nodes."""
        for name in ("state", "spool/node1", "spool/node2"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        self._write_configuration()
        key, names = self.folder / "munge.key", ("socket", "pid", "log", "seed")
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = [f"--{n}-file={self.folder}/munge.{n}" for n in names if n != "socket"]
        self._run_daemon(
            *("munged", "--foreground", "--force", f"--key-file={key}", *files),
            f"--socket={self.folder}/munge.socket",
        )
        _wait_for(lambda: (self.folder / "munge.socket").exists(), 20, "munged")
        self._run_daemon("slurmctld", "-D", "-i")
        self.local.mkdir()
        script = 'hostname "$0"; mount --bind "$1" /etc/hosts; mount -t tmpfs none "$2"; '
        script += 'exec slurmd -D -N "$0"'
        for node in NODES:
            files = (str(self.folder / "hosts"), str(self.local))
            self._run_daemon("unshare", "--mount", "--uts", "sh", "-c", script, node, *files)
        _wait_for(lambda: self._num_idle() == len(NODES), 60, f"slurmd, see {self.folder}")

    def _write_configuration(self) -> None:
        ports = _free_ports(1 + len(NODES))
        content = CONF.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            folder=self.folder,
            port=ports[0],
            ports=f"[{ports[1]}-{ports[-1]}]",
        )
        (self.folder / "slurm.conf").write_text(content)
        hosts = "".join(f"127.0.0.1 {node}\n" for node in NODES)
        (self.folder / "hosts").write_text(hosts + Path("/etc/hosts").read_text())

    def _run_daemon(self, *command: str) -> None:
        log = (self.folder / "daemons.log").open("ab")
        self._daemons.append(
            subprocess.Popen(command, env=self.environ, stdout=log, stderr=log, cwd=self.folder)
        )
        log.close()

    def call(
        self,
        *command: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """A client command, with what it printed."""
        return subprocess.run(
            command,
            env=self.environ | dict(environ or {}),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def run(self, *command: str, check: bool = True) -> str:
        """A client command's output."""
        done = self.call(*command)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def sbatch(self, *arguments: str, environ: dict[str, str], cwd: Path) -> str:
        """Submit; returns the job's number."""
        done = self.call("sbatch", "--parsable", *arguments, environ=environ, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, job: str, seconds: float) -> list[dict[str, str]]:
        """Wait for the end of a job, or of all tasks of an array; JobState, ExitCode, Restarts."""
        ended: list[dict[str, str]] = []

        def has_ended() -> bool:
            lines = self.run("scontrol", "show", "job", "--oneliner", job).splitlines()
            ended[:] = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
            states = {task["JobState"] for task in ended}
            return not states & {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"}

        _wait_for(has_ended, seconds, f"job {job}")
        return ended

    def _num_idle(self) -> int:
        return self.run("sinfo", "--noheader", "--Node", "--format=%T", check=False).count("idle")

    def stop(self) -> None:
        """End jobs, daemons and whatever else carries this cluster's configuration."""
        self.run("scancel", f"--user={getpass.getuser()}", check=False)
        time.sleep(1.0)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(SHUTDOWN_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self._left_over():
            os.kill(pid, signal.SIGKILL)

    def _left_over(self) -> list[int]:
        mark = f"SLURM_CONF={self.environ['SLURM_CONF']}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
            except OSError:  # it has ended, or is not ours
                continue
        return found


def _free_ports(count: int) -> list[int]:
    """Neighboring ports that are free now, below those that the kernel gives away."""
    for first in range(20_000 + secrets.randbelow(1000) * 10, 32_000, 10):
        ports = list(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)
