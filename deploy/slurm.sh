#!/bin/bash
# One sweep on Slurm: a Ray cluster on the machines of the allocation, for the time of the sweep.
#
#   sbatch --nodes=4 deploy/slurm.sh sweeps/quickstart.yaml /shared/results
#
# The folder of results is one that all machines mount, or s3://BUCKET/PREFIX. When the time is over or the
# allocation is taken away, packs are checkpointed; the job is queued again and goes on where the ledger
# stands. A newcomer changes the lines marked CHANGE.
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
port=$((20000 + SLURM_JOB_ID % 20000))

export PATH=$venv/bin:$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Where results and MLflow are, and the login: a copy of deploy/cluster.env that only you can read.
env_file=${BNSWEEP_ENV:-$HOME/.bnsweep/cluster.env}
if [ -f "$env_file" ]; then
    set -a
    # shellcheck source=/dev/null
    . "$env_file"
    set +a
fi

# A token for this job alone, in the home that all machines see.
umask 077
private=$(mktemp -d "$HOME/.bnsweep-job-$SLURM_JOB_ID-XXXXXX")
export RAY_AUTH_TOKEN_PATH=$private/token
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(hostname --ip-address | awk '{print $1}')
cpus=${SLURM_CPUS_PER_TASK:-1}

# This script runs on the first machine, and so do the control service and the driver, which are no steps:
# srun answers TERM by killing what it runs. That machine trains as well.
driver='' joined=() head=''
end() {
    for pid in "$@"; do kill -TERM "$pid" 2> /dev/null || true; done
    for pid in "$@"; do wait "$pid" || true; done
}
# shellcheck disable=SC2317  # called by the trap
leave() {
    trap '' TERM
    end ${driver:+"$driver"}
    end ${joined[@]+"${joined[@]}"}
    end ${head:+"$head"}
    driver='' joined=() head=''
    rm -rf "$private"
}
# shellcheck disable=SC2317  # called by the trap
on_term() {
    echo "asked to leave: checkpointing"
    leave
    scontrol requeue "$SLURM_JOB_ID" || true
    exit 0
}
trap leave EXIT
trap on_term TERM

ray start --head --block --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 \
    --include-dashboard=false --num-cpus="$cpus" --disable-usage-stats &
head=$!
for host in "${hosts[@]:1}"; do
    srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --overlap -w "$host" \
        ray start --block --address="$address:$port" --num-cpus="$cpus" --disable-usage-stats &
    joined+=($!)
done

for _ in $(seq 120); do
    if ray status --address="$address:$port" > /dev/null 2>&1; then break; fi
    sleep 1
done

python -m bnsweep run "$sweep" --address "$address:$port" --storage "$storage" --wait 3600 &
driver=$!
code=0
wait "$driver" || code=$?
driver=''
exit "$code"
