#!/bin/bash
# Trains on a Slurm cluster, over any number of machines, and resumes by itself when its time is up:
#
#     sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=8 \
#         launch/slurm.sh --config launch/configs/kinetics/kinetics400_8f.yaml
#
# One task per GPU; its cores decode its videos. Two minutes before the time limit Slurm sends SIGUSR1 to every task;
# the run finishes its step, saves and leaves with exit code 75, and the job puts itself back into the queue. --resume
# makes the next turn continue from there, as it does after a machine has died (--requeue). Any other exit code is the
# job's own.
#SBATCH --job-name=vpsn
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

set -u
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# Each task takes its place from Slurm's own variables; exec, so that signals reach Python. Not every version of srun
# takes the cores per task from the job.
srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_SIZE=$SLURM_NTASKS_PER_NODE
    exec "${PYTHON:-.venv/bin/python}" launch/train.py --resume "$@"' train "$@"
code=$?

if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
