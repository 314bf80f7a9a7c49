"""A throw-away SLURM on this machine: munge, accounting, a controller, five nodes of which three have fake GPUs.

Runs as root on Debian's packages, without systemd and cgroups, on the loopback alone. A fake GPU is a character device:
SLURM deals it out and sets CUDA_VISIBLE_DEVICES as for a real one. Everything lies in one folder, beside a link in
/etc/slurm: the Snakemake plugin drops SLURM_CONF inside of jobs, so that the default path must work too.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client", "slurmdbd", "mariadb-server")
NODES = {"c1": 17001, "c2": 17002, "g1": 17003, "g2": 17004, "s1": 17005}
GPUS = {"g1": ["fake"], "g2": ["fake", "fake"], "s1": ["1g.5gb"]}
"""The types of the nodes' GPUs; that of s1 is named as a part of a GPU (MIG) is."""
SITE = Path("/etc/slurm")
NAME = "throwaway"
PREFIX = "pf-slurm-"
"""How the name of its folder begins."""

SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket={lab}/munge/socket
CredType=cred/munge
StateSaveLocation={lab}/controller
SlurmdSpoolDir={lab}/spool/%n
SlurmctldPidFile={lab}/slurmctld.pid
SlurmdPidFile={lab}/slurmd.%n.pid
SlurmctldLogFile={lab}/slurmctld.log
SlurmdLogFile={lab}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass={lab}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=10000,bf_interval=2,defer_batch=no
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldTimeout=30
SlurmdTimeout=20
KillWait=3
MinJobAge=600
PropagateResourceLimits=NONE
{nodes}
PartitionName=cpu Nodes=c1,c2 Default=YES MaxTime=UNLIMITED DefaultTime=5 DefMemPerCPU=500 State=UP
PartitionName=gpu Nodes=g1,g2 MaxTime=UNLIMITED DefaultTime=5 DefMemPerCPU=500 State=UP
PartitionName=spare Nodes=s1 MaxTime=60 DefaultTime=5 DefMemPerCPU=500 State=UP PriorityTier=1
PartitionName=urgent Nodes=s1 MaxTime=UNLIMITED DefaultTime=5 DefMemPerCPU=500 State=UP PriorityTier=9 PreemptMode=OFF
"""
DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={lab}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
PidFile={lab}/slurmdbd.pid
LogFile={lab}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=13306
StorageLoc=slurm_acct_db
StorageUser=slurm
StoragePass=slurm
"""


class SlurmMissing(RuntimeError):
    """SLURM can't run here; the message says why and what to do."""


class Cluster:
    """The cluster in a folder.

    Args:
        lab: an empty folder with a short path (sockets lie in it) that all users can enter.
    """

    def __init__(self, lab: Path) -> None:
        self.lab = lab
        self.environment = {**os.environ, "SLURM_CONF": str(lab / "slurm.conf")}

    def start(self) -> None:
        """Start all daemons and wait until all nodes are idle.

        Raises:
            SlurmMissing: a program isn't installed, this isn't root, or a daemon doesn't come up.
        """
        missing = [name for name in PROGRAMS if shutil.which(name, path="/usr/sbin:/usr/bin:/usr/libexec") is None]
        if missing:
            raise SlurmMissing(f"no {', '.join(missing)}: apt-get install {' '.join(PACKAGES)}")
        if os.geteuid():
            raise SlurmMissing("the throw-away SLURM needs root: it makes device nodes and a link in /etc/slurm")
        left = (SITE / "slurm.conf").resolve()
        if left.exists():
            if f"ClusterName={NAME}\n" not in left.read_text() or not left.parent.name.startswith(PREFIX):
                raise SlurmMissing(f"this machine belongs to a real cluster: {SITE / 'slurm.conf'} exists")
            Cluster(left.parent).stop()  # of tests that were killed before they could stop it
            shutil.rmtree(left.parent, ignore_errors=True)
        self._write_files()
        self._start_munge()
        self._start_accounting()
        self._daemon("slurmctld")
        for node in NODES:
            self.start_node(node)
        self._wait(self.nodes_are_up, "the nodes don't come up", 300)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, under the node's own host name: leases tell hosts apart by that."""
        (self.lab / "spool" / node).mkdir(parents=True, exist_ok=True)
        self._check(["unshare", "--uts", "sh", "-c", f"hostname {node} && exec /usr/sbin/slurmd -N {node}"])

    def kill_node(self, node: str) -> None:
        """Let a node vanish: its daemon, its jobs' keepers and all that they started die at once."""
        doomed = self._pids(f"slurmd.{node}.pid")
        jobs = self.run("squeue", "-h", "-w", node, "-o", "%A").stdout.split()
        for pid, words, variables in _processes():
            keeper = any(words.startswith(f"slurmstepd: [{job}.") for job in jobs)
            if keeper or any(f"SLURM_JOB_ID={job}" in variables for job in jobs):
                doomed.append(pid)
        for pid in doomed:
            _signal(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Cancel all jobs, end all daemons, remove the link; leaves the folder with its logs."""
        self.run("scancel", "-u", "root", check=False)
        self._wait(lambda: not self.run("squeue", "-h", check=False).stdout.strip(), None, 10)
        for pattern in ("slurmd.*.pid", "slurmctld.pid", "slurmdbd.pid", "mysql/*.pid", "munge/*.pid"):
            pids = self._pids(pattern)
            for number in (signal.SIGTERM, signal.SIGKILL):
                for pid in filter(_alive, pids):
                    _signal(pid, number)
                self._wait(lambda pids=pids: not any(map(_alive, pids)), None, 15)
        mine = (f"SLURM_WORKING_CLUSTER={NAME}:", f"SLURM_CONF={self.lab}/")
        for pid, _, variables in _processes():  # of jobs that outlived their node, and drivers of tests that failed
            if any(variable.startswith(mine) for variable in variables):
                _signal(pid, signal.SIGKILL)
        for name in ("slurm.conf", "gres.conf"):
            if (SITE / name).is_symlink():
                (SITE / name).unlink()

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a client command of SLURM; none may hang for ever."""
        try:
            return subprocess.run(
                command, check=check, timeout=timeout, env=self.environment, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            if check:
                raise
            return subprocess.CompletedProcess(command, 124, "", "timed out")

    def accounting(self, *fields: str) -> list[dict[str, str]]:
        """What accounting knows of all jobs (not their steps), a dict a job."""
        out = self.run("sacct", "-aXnP", "--starttime", "now-1days", "-o", ",".join(fields)).stdout
        return [dict(zip(fields, line.split("|"), strict=True)) for line in out.splitlines()]

    def nodes_are_up(self) -> bool:
        """Whether every node takes jobs."""
        out = self.run("sinfo", "-h", "-N", "-o", "%N %t", check=False).stdout
        return {line.split()[0] for line in out.splitlines() if line.split()[1] in {"idle", "mix", "alloc"}} == {*NODES}

    def _write_files(self) -> None:
        for folder in ("munge", "controller", "spool", "dev", "mysql"):
            (self.lab / folder).mkdir(parents=True, exist_ok=True)
        self.lab.chmod(0o755)
        host, count = socket.gethostname().partition(".")[0], 0
        nodes, gpus = [], ["AutoDetect=off"]
        for node, port in NODES.items():
            types = GPUS.get(node, [])
            gres = f" Gres=gpu:{types[0]}:{len(types)}" if types else ""
            nodes.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 Sockets=1 CoresPerSocket=8 "
                f"ThreadsPerCore=1 RealMemory=8000{gres}"
            )
            for name in types:
                device = self.lab / "dev" / f"nvidia{count}"
                if not device.exists():
                    os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
                gpus.append(f"NodeName={node} Name=gpu Type={name} File={device}")
                count += 1
        values = {"name": NAME, "lab": self.lab, "host": host, "nodes": "\n".join(nodes)}
        (self.lab / "slurm.conf").write_text(SLURM_CONF.format_map(values))
        (self.lab / "gres.conf").write_text("\n".join(gpus) + "\n")
        (self.lab / "slurmdbd.conf").write_text(DBD_CONF.format_map(values))
        (self.lab / "slurmdbd.conf").chmod(0o600)
        SITE.mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf"):
            (SITE / name).unlink(missing_ok=True)
            (SITE / name).symlink_to(self.lab / name)

    def _start_munge(self) -> None:
        folder = self.lab / "munge"
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        folder.chmod(0o711)
        for path in (folder, folder / "key"):
            shutil.chown(path, "munge", "munge")
        names = {"key-file": "key", "socket": "socket", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        pid = f"--pid-file={folder / 'munged.pid'}"
        self._check(["/usr/sbin/runuser", "-u", "munge", "--", "/usr/sbin/munged", "--force", pid, *options])

    def _start_accounting(self) -> None:
        data, mysocket = self.lab / "mysql", self.lab / "mysql" / "socket"
        shutil.chown(data, "mysql", "mysql")
        self._check(
            ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db",
             "--auth-root-authentication-method=socket"]
        )  # fmt: skip
        with (self.lab / "mariadb.log").open("w") as log:
            subprocess.Popen(
                ["/usr/sbin/mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={mysocket}",
                 "--port=13306", "--bind-address=127.0.0.1", f"--pid-file={data / 'mariadb.pid'}",
                 "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
                 "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync",
                 "--skip-log-bin", "--skip-name-resolve"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        ping = ["mariadb-admin", "--no-defaults", "-S", str(mysocket), "ping"]
        self._wait(lambda: self.run(*ping, check=False).returncode == 0, "the database doesn't come up", 300)
        users = "".join(
            f"CREATE USER slurm@'{host}' IDENTIFIED BY 'slurm'; GRANT ALL ON slurm_acct_db.* TO slurm@'{host}';"
            for host in ("localhost", "127.0.0.1")
        )
        create = f"CREATE DATABASE slurm_acct_db; {users}"
        self._check(["mariadb", "--no-defaults", "-S", str(mysocket), "-e", create])
        self._daemon("slurmdbd")
        show = ("sacctmgr", "-n", "show", "cluster")
        self._wait(lambda: self.run(*show, check=False).returncode == 0, "slurmdbd doesn't come up", 300)
        for what in (("cluster", NAME), ("account", "lab"), ("user", "root", "Account=lab")):
            self.run("sacctmgr", "-i", "add", *what)

    def _daemon(self, name: str, *arguments: str) -> None:
        self._check([f"/usr/sbin/{name}", *arguments])

    def _check(self, command: Sequence[str]) -> None:
        done = self.run(*command, check=False, timeout=300)
        if done.returncode:
            raise SlurmMissing(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")

    def _pids(self, pattern: str) -> list[int]:
        """The daemons whose numbers lie in files of the lab; a number may be another's, once its daemon is gone."""
        pids = [int(path.read_text()) for path in self.lab.glob(pattern) if path.read_text().strip()]
        return [pid for pid in pids if any(name in _command(pid) for name in PROGRAMS)]

    def _wait(self, done: Callable[[], bool], what: str | None, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                if what is None:
                    return
                logs = "\n".join(f"{p}:\n{p.read_text(errors='replace')[-600:]}" for p in self.lab.glob("*.log"))
                raise SlurmMissing(f"{what}\n{logs}")
            time.sleep(0.1)


def _processes() -> Iterator[tuple[int, str, list[str]]]:
    """Number, command and environment of all processes."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            yield int(process.name), _command(int(process.name)), variables


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
