#!/bin/sh
# {{TITLE}}: a Slurm job that continues after every interruption.
#   sbatch FILE    submits it
#SBATCH --job-name={{NAME}}
#SBATCH --cpus-per-task={{CPUS}}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
{{OPTIONS}}
set -u
[ -n "${SLURM_JOB_ID:-}" ] || { echo "error: submit this script with \`sbatch FILE\`" >&2; exit 2; }

self=$SLURM_JOB_ID
{{ATTEMPT}}

cd {{FOLDER}} || exit 74
export U2A_JOB=1
{{DATA}}
{{BODY}}
