# Puts this job back into the queue, unless somebody has ended it: then Slurm no longer calls it running.
requeue() {
    if [ "$(squeue --noheader --jobs="$self" --format=%T)" = RUNNING ]; then
        # Slurm ends this script now, and starts it again some minutes later.
        scontrol requeue "$self" && sleep 60
    fi
}

# Runs a command and passes SIGTERM on to it. 0 means done, 1 done with findings, 42 that no repetition helps,
# 75 (or 143, before the command was ready for signals) that a signal has stopped it. Other errors may pass.
attempt() {
    "$@" &
    child=$!
    trap 'kill -TERM "$child" 2>/dev/null' TERM
    wait "$child"
    code=$?
    # A signal ends `wait` early.
    while kill -0 "$child" 2>/dev/null; do
        wait "$child"
        code=$?
    done
    trap - TERM
    case $code in
    0 | 1 | 42) ;;
    75 | 143) requeue ;;
    *) [ "${SLURM_RESTART_COUNT:-0}" -ge {{RETRIES}} ] || requeue ;;
    esac
    exit "$code"
}
