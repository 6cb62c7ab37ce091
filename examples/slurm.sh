#!/bin/bash
# Trains one run in as many SLURM jobs as it takes:   sbatch examples/slurm.sh train.toml
#SBATCH --time=08:00:00
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:USR1@180    # three minutes before the end, should the wall budget below not have ended it

name=job-$SLURM_JOB_ID         # a requeued job keeps its number, and so finds its run again
if memdash ls | grep -q "^$name-"; then
    what=(--resume "$name-")
else
    what=("$1" --set "run.name=$name")
fi

# In the background, because a shell hears signals only while it waits.
memdash run "${what[@]}" --headless --set budget.wall=7h50m &
trap "kill -USR1 $!" USR1      # a full checkpoint now; the run goes on
trap "kill -TERM $!" TERM      # a full checkpoint, then the end: exit code 10
while kill -0 $! 2>/dev/null; do
    wait $!
done
wait $!
code=$?
if [ "$code" = 16 ]; then      # the wall budget is used up, and everything is saved: go on in another job
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
