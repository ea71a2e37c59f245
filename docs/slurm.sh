#!/bin/bash
# sbatch docs/slurm.sh OPTIONS OF train.py. Two minutes before the end of its time, or when it is preempted, the job saves and queues again.
#SBATCH --job-name=kdgan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

# A restart on several machines finds a new store, not the addresses of processes that are no more.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# torchrun knows SIGTERM, not SIGUSR1, and passes it on to its processes, which save the state.
stopped=
trap 'stopped=yes; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1 TERM

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:29400" train.py "$@" &
step=$!
wait "$step"
code=$?
if [ -n "$stopped" ]; then
    wait "$step"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
