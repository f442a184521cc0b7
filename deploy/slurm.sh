#!/bin/bash
# One sweep on Slurm: a Ray cluster on the machines of the allocation, for the time of the sweep.
#
#   sbatch --nodes=4 deploy/slurm.sh sweeps/quickstart.yaml /shared/results
#
# The folder of results is one that all machines mount, or s3://BUCKET/PREFIX. Two minutes before the time is
# over packs are checkpointed, and the job is queued again and goes on where the ledger stands. A job whose
# machines are taken away without that goes on from the checkpoint before. A newcomer changes the lines marked
# CHANGE.
#SBATCH --job-name=bnsweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8            # CHANGE 1: what a machine has
#SBATCH --gpus-per-task=1            # CHANGE 2: likewise; 0 for CPUs alone
#SBATCH --time=08:00:00              # CHANGE 3: the longest your cluster gives
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
set -euo pipefail

sweep=${1:?usage: sbatch deploy/slurm.sh SWEEP.yaml STORAGE}
storage=${2:?usage: sbatch deploy/slurm.sh SWEEP.yaml STORAGE}
venv=${BNSWEEP_VENV:-$PWD/.venv}     # CHANGE 4: where constraints.txt (ray==2.60.0) is installed, seen by all
port=$((20000 + SLURM_JOB_ID % 6000))

export PATH=$venv/bin:$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Where results and MLflow are, and the login: a copy of deploy/cluster.env that only you can read.
env_file=${BNSWEEP_ENV:-$HOME/.bnsweep/cluster.env}
if [ -f "$env_file" ]; then
    set -a
    # shellcheck source=/dev/null
    . "$env_file"
    set +a
fi

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
if [ "${#hosts[@]}" -ne "$SLURM_JOB_NUM_NODES" ]; then
    echo "scontrol must name the $SLURM_JOB_NUM_NODES machines of the job, but named ${#hosts[@]}" >&2
    exit 1
fi
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
temporary=/tmp/ray-$SLURM_JOB_ID     # not /tmp/ray, which belongs to who came first to a machine
private=
head='' driver='' joined=()

# This script runs on the first machine, and so do the control service and the driver, which are no steps:
# srun answers TERM by killing what it runs. That machine trains as well.
end() {
    for pid in "$@"; do kill -TERM "$pid" 2> /dev/null || true; done
    for pid in "$@"; do wait "$pid" || true; done
}
leave() {
    trap '' TERM
    end ${driver:+"$driver"}
    rm -rf ${private:+"$private"} || true     # nothing starts from here on
    # Not by ending srun, which would kill them: this goes to the steps alone.
    if [ "${#joined[@]}" -gt 0 ] && scancel --signal=TERM "$SLURM_JOB_ID"; then wait "${joined[@]}" || true; fi
    end ${joined[@]+"${joined[@]}"}
    end ${head:+"$head"}
    head='' driver='' joined=()
    rm -rf "$temporary" || true
}
# shellcheck disable=SC2317  # called by the trap
on_term() {
    trap '' TERM
    state=$(squeue --noheader --job="$SLURM_JOB_ID" --format=%T) || true
    if [ "${state:-RUNNING}" != RUNNING ]; then
        # Cancelled: everything was told to end, and the driver would wait for a Ray that is gone.
        kill -KILL ${driver:+"$driver"} 2> /dev/null || true
        exit 3
    fi
    echo "asked to leave: checkpointing" || true
    end ${driver:+"$driver"}
    driver=
    # Incomplete: not a job that was cancelled. Slurm then ends what is left, and so does leave.
    if scontrol requeue Incomplete "$SLURM_JOB_ID"; then exit 0; fi
    echo "not queued again: submit the same once more, and it goes on" || true
    exit 3
}
trap leave EXIT
trap on_term TERM

# A token for this job alone, in the home that all machines see.
rm -rf "$HOME/.bnsweep-job-$SLURM_JOB_ID-"*
private=$(mktemp -d "$HOME/.bnsweep-job-$SLURM_JOB_ID-XXXXXX")
export RAY_AUTH_TOKEN_PATH=$private/token
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")

# The address by which the others reach this machine, whatever its own name stands for here.
address=$(python - ${hosts[1]+"${hosts[1]}"} << 'PYTHON'
import socket, sys
import ray
if len(sys.argv) > 1:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((sys.argv[1], 9))
        print(probe.getsockname()[0])
else:
    print(ray.util.get_node_ip_address())
PYTHON
)
if [ "${#hosts[@]}" -gt 1 ] && [ "${address%%.*}" = 127 ]; then
    echo "${hosts[1]} must be another machine, but its name leads to $address: see /etc/hosts" >&2
    exit 1
fi

ray start --head --block --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 \
    --ray-client-server-port=$((port + 6000)) --temp-dir="$temporary" \
    --include-dashboard=false --num-cpus="$cpus" --disable-usage-stats &
head=$!
until ray status --address="$address:$port" > /dev/null 2>&1; do
    kill -0 "$head" 2> /dev/null || exit 1     # it has said why
    if [ "$SECONDS" -gt 300 ]; then echo "Ray must answer within 300 s at $address:$port" >&2; exit 1; fi
    sleep 1
done

# A step that is ended takes its folder with it; one that is killed leaves it, as in a job that is cancelled.
for host in "${hosts[@]:1}"; do
    # shellcheck disable=SC2016  # for the shell over there
    srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --overlap --export=ALL -w "$host" bash -c '
        trap : TERM
        ray start --block --address="$1" --num-cpus="$2" --disable-usage-stats & wait || true
        wait; rm -rf "$3"' join "$address:$port" "$cpus" "$temporary" &
    joined+=($!)
done

# Workers are counted once, when the sweep begins: wait for machines that take their time.
python - "$address:$port" "${#hosts[@]}" << 'PYTHON' &
import sys, time
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
until = time.monotonic() + 300
while (up := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]) and time.monotonic() < until:
    time.sleep(1)
print(f"{up} of {sys.argv[2]} machines have joined", flush=True)
PYTHON
driver=$!
wait "$driver"

python -m bnsweep run "$sweep" --address "$address:$port" --storage "$storage" --wait 3600 &
driver=$!
code=0
wait "$driver" || code=$?
driver=
exit "$code"
