#!/bin/bash
# A recipe on two machines with 8 GPUs each, under Slurm: sbatch slurm.sh RECIPE RUN
# Submitted again with the same RUN, it goes on from the newest checkpoint.
#SBATCH --job-name=aapo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --requeue
set -euo pipefail

recipe=$1 run=$2
# Both environments, the cache and the run are on a file system that all machines see.
aapo=/shared/aapo/bin/aapo
verl=/shared/verl/bin
export AAPO_CACHE=/shared/cache/aapo HF_HOME=/shared/cache/huggingface

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]} port=6379
address="$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}'):$port"

srun --overlap --nodes=1 --ntasks=1 -w "$head" \
    "$verl/ray" start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus=8 --block &
sleep 20
for host in "${hosts[@]:1}"; do
    srun --overlap --nodes=1 --ntasks=1 -w "$host" \
        "$verl/ray" start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus=8 --block &
done
sleep 20

resume=()
if [ -e "$run/recipe.yaml" ]; then resume=(--resume); fi
srun --overlap --nodes=1 --ntasks=1 --gpus=0 -w "$head" \
    "$aapo" cluster "$recipe" --output_dir "$run" "${resume[@]}" \
    --cluster.num_nodes "$SLURM_NNODES" --cluster.gpus_per_node 8 \
    --cluster.address "$address" --cluster.python "$verl/python"
