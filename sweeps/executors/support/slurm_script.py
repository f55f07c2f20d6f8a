"""Write the two scripts of a Slurm job: job.sh, which sbatch takes, and host.sh, which srun starts on each of its hosts.

Both lie in the job's folder, to be read, and tried by hand. What happens in them:

    exit      exit status of the job, once it is over; NOT_STARTED where no worker was started
    began     the worker has started, in this attempt
    first     exit status of the first host that did not end well: the others end because of it
    ended.N   host N has ended by itself; srun alone says 0 of one that was killed
    stdout    what the worker of the first host prints: events, one JSON object a line
    srun.log  what srun says
    job       number of the job and process of its launcher (sweeps/executors/slurm.py), until it is over

A job that Slurm has queued again runs the same script again, perhaps on other hosts: what says where it runs is found
out anew each time.
"""

from collections.abc import Sequence
import dataclasses
import os
import shlex
import sys

from experiments.alive import requests
from experiments.alive.lease import VARIABLE
from sweeps.executors.support.protocol import ROOT

NOT_STARTED = 78  # exit status of a job whose setup failed, or whose srun; EX_CONFIG of sysexits.h
GRACE_SECONDS = 20  # for the hosts of a job to end by themselves once one has
# Of the first host: jax takes the same ones (jax/_src/clusters/slurm_cluster.py), so that two jobs on a host do not meet.
FIRST_PORT = 61440
PORTS = 4096

JOB = """\
#!/bin/bash
{directives}
# One population of runs of a Lossgrid study: submitted by sweeps.launch, and run again where Slurm queues it again.

cd {folder} || exit 1
rm -f exit began first ended.*

leave() {{ # keep the exit status where the launcher sees it, whole
  echo "$1" > exit.new
  mv exit.new exit
  exit "$1"
}}

# The worker hears these itself, saves and ends; this script waits for it.
trap : {signals}

set -e
trap 'echo "error: the setup of the job failed at: $BASH_COMMAND" >&2; leave {not_started}' ERR
{setup}
trap - ERR
set +e

export PYTHONPATH={root}"${{PYTHONPATH:+:$PYTHONPATH}}"
export LOSSGRID_COORDINATOR="$(hostname):{port}"
{srun} 2> srun.log # what it says of an exit status would hide what the worker has said
status=$?

[ -s first ] && status=$(< first)
if [ ! -s first ] && [ "$(find . -name 'ended.*' | wc -l)" -lt {hosts} ]; then
  [ -e began ] || {{ cat srun.log >&2; leave {not_started}; }}
  exit 1 # killed: Slurm says what for
fi
for log in {log}.*; do # what the other hosts have said
  [ -e "$log" ] && [ "$status" != 0 ] && tail -n 20 "$log" >&2
done
leave "$status"
"""

HOST = """\
#!/bin/bash
# On each host of the job: one process. The first host holds the claims on the runs, speaks and writes.
cd {folder} || exit 1
trap : {signals}

if [ "$SLURM_PROCID" = 0 ]; then
  export {variable}={token}
  exec >> stdout 2>> {log}
else
  exec > /dev/null 2> {log}."$SLURM_PROCID"
fi
: > began
{train}
status=$?
[ "$status" = 0 ] || (set -o noclobber && echo "$status" > first) 2> /dev/null
: > ended."$SLURM_PROCID"
exit "$status"
"""


@dataclasses.dataclass(frozen=True)
class Job:
    """What the scripts of a job say. `directives`: options of sbatch; `setup`: lines of shell before the worker."""

    name: str
    folder: str
    log: str
    arguments: Sequence[str]  # of the worker's Python
    token: str  # of the claims on its runs
    directives: Sequence[str]
    setup: Sequence[str]
    hosts: int
    cpus: int
    port: int = 0  # of the first host; 0: by the number of the job
    python: str = sys.executable


def job_script(job: Job) -> str:
    """Return the text of job.sh."""
    directives = [
        f"--job-name={job.name}",
        f"--output={job.log.replace('%', '%%')}",  # Slurm's patterns begin with a percent sign
        "--open-mode=append",
        *job.directives,
    ]
    return JOB.format(
        directives="\n".join(f"#SBATCH {shlex.quote(word)}" for word in directives),
        folder=shlex.quote(job.folder),
        signals=_signals(),
        setup="\n".join(job.setup) or ":",
        not_started=NOT_STARTED,
        root=shlex.quote(ROOT),
        port=job.port or f"$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))",
        srun=_srun(job),
        hosts=job.hosts,
        log=shlex.quote(job.log),
    )


def _srun(job: Job) -> str:
    """Return the command that starts one process on each host. srun takes no count of cores from sbatch since 22.05."""
    words = ["srun", "--export=ALL", f"--nodes={job.hosts}", f"--ntasks={job.hosts}", f"--cpus-per-task={job.cpus}"]
    if job.hosts > 1:
        words += ["--kill-on-bad-exit=0", f"--wait={GRACE_SECONDS}"]
    return shlex.join([*words, "bash", os.path.join(job.folder, "host.sh")])


def host_script(job: Job) -> str:
    """Return the text of host.sh."""
    train = shlex.join([job.python, *job.arguments])
    if job.hosts > 1:
        train += ' --hosts="$LOSSGRID_COORDINATOR,$SLURM_PROCID,$SLURM_NTASKS"'
    return HOST.format(
        folder=shlex.quote(job.folder),
        signals=_signals(),
        variable=VARIABLE,
        token=job.token,
        log=shlex.quote(job.log),
        train=train,
    )


def _signals() -> str:
    """Return the requests to stop, as a shell names them."""
    return " ".join(name.removeprefix("SIG") for name in requests.NAMES)


def split_setup(text: str) -> tuple[list[str], list[str]]:
    """Divide a file of the user's into options of sbatch, from its lines `#SBATCH`, and lines of shell."""
    directives = []
    lines = []
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            directives += shlex.split(line.removeprefix("#SBATCH"), comments=True)
        elif not line.startswith("#!"):
            lines.append(line)
    return directives, lines
