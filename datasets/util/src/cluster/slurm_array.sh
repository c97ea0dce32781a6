#!/bin/sh
# {{TITLE}}: a Slurm job array of {{PARTS}} parts, and a job that waits for them and writes the manifest.
#   sh FILE        submits both and prints the id of the second, for --dependency=afterok:ID
#   sbatch FILE    submits the array alone
#SBATCH --job-name={{NAME}}
#SBATCH --array=0-{{LAST}}
#SBATCH --cpus-per-task={{CPUS}}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
{{OPTIONS}}
set -u

if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
    [ -f "$0" ] || { echo "error: save this script in a file, then run \`sh FILE\`" >&2; exit 2; }
    array=$(sbatch --parsable "$0") || exit
    array=${array%%;*}
    echo "{{NAME}}: job $array with {{PARTS}} parts" >&2
    # An array of one task, because the options above stand for this job too.
    exec sbatch --parsable --array=0 --job-name={{NAME}}-finish --dependency="afterok:$array" \
        --kill-on-invalid-dep=yes "$0" finish
fi

self=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
{{ATTEMPT}}

cd {{FOLDER}} || exit 74
export U2A_JOB=1
{{DATA}}
case ${1:-part} in
part) attempt {{PART}} ;;
finish) attempt {{FINISH}} ;;
esac
