"""Two network hosts on this machine, a and b: namespaces joined by a cable that can be cut."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ADDRESSES = {"a": "10.99.7.1", "b": "10.99.7.2"}
NOBODY = "02:00:00:00:00:01"
"""A hardware address that no host has."""


def missing_tools() -> list[str]:
    """What this machine lacks for namespaces."""
    lacking = [tool for tool in ("ip", "unshare") if shutil.which(tool, path=_path()) is None]
    return lacking if os.geteuid() == 0 else [*lacking, "root"]


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Hosts:
    """Processes on a host see its network, its name and each other's names; files are shared."""

    def __init__(self, name: str) -> None:
        self._names = {host: f"{name}{host}" for host in ADDRESSES}
        self._processes: list[subprocess.Popen[str]] = []
        self._table: Path | None = None

    def up(self) -> None:
        """Make both and connect them."""
        for name in self._names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        a, b = self._names.values()
        _ip("link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b)
        for host, address in ADDRESSES.items():
            _ip("-n", self._names[host], "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", self._names[host], "link", "set", "eth0", "up")
        descriptor, table = tempfile.mkstemp(prefix="hosts.")
        os.close(descriptor)
        self._table = Path(table)
        lines = [f"{address} {host}" for host, address in ADDRESSES.items()]
        self._table.write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")

    def start(
        self, host: str, command: list[str], environ: dict[str, str], cwd: Path
    ) -> subprocess.Popen[str]:
        """A process on a host; stdout and stderr come back as one text."""
        script = 'hostname "$0"; mount --bind "$1" /etc/hosts; shift; exec "$@"'
        prefix = ["ip", "netns", "exec", self._names[host], "unshare", "--uts", "sh", "-c", script]
        process = subprocess.Popen(
            [*prefix, host, str(self._table), *command],
            # Coverage in every launcher and rank would cost minutes.
            env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
            | {"PATH": _path()}
            | environ,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def cut(self) -> None:
        """From now on every packet is lost without a sign, in both directions."""
        for host, other in (("a", "b"), ("b", "a")):
            name, lost = self._names[host], ("lladdr", NOBODY, "dev", "eth0", "nud", "permanent")
            _ip("-n", name, "neigh", "replace", ADDRESSES[other], *lost)

    def heal(self) -> None:
        """Undo `cut`."""
        for host, other in (("a", "b"), ("b", "a")):
            _ip("-n", self._names[host], "neigh", "del", ADDRESSES[other], "dev", "eth0")

    def down(self) -> None:
        """End what runs there, remove both."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, 9)
            process.wait()
        for name in self._names.values():
            pids = _ip("netns", "pids", name, check=False).split()
            for pid in pids:
                subprocess.run(["kill", "-9", pid], check=False)
            _ip("netns", "del", name, check=False)
        if self._table is not None:
            self._table.unlink()


def _ip(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["ip", *arguments],
        env=os.environ | {"PATH": _path()},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr}")
    return done.stdout
