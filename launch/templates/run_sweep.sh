#!/bin/bash
# $name, on this machine: the runs of a sweep, one after the other. Run it
# again after a stop: finished runs are passed over, the stopped one goes on.
set -u
cd $directory || exit 64
$setup
failed=0
for number in $numbers; do
  $line \
    "--flagfile=$folder/runs/$$number.flags" &
  child=$$!
  # A stop reaches the training, which saves its state and says 75.
  trap 'kill -TERM "$$child" 2>/dev/null' TERM INT
  wait "$$child"; code=$$?
  while kill -0 "$$child" 2>/dev/null; do wait "$$child"; code=$$?; done
  [ "$$code" -eq 75 ] && exit 75
  [ "$$code" -eq 0 ] || { echo "run $$number: exit code $$code" >&2; failed=1; }
done
exit "$$failed"
