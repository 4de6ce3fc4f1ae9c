#!/bin/bash
# $name, on this machine: the runs of a sweep, one after the other. Run it
# again after a stop: finished runs are skipped, the stopped one resumes.
cd $directory || exit 64
$environment
$setup
set -u
failed=0
stopped=0
# A stop reaches the training, which saves its state and says 75.
trap 'stopped=1; kill -TERM "$$child" 2>/dev/null' TERM INT
for number in $numbers; do
  $line \
    --flagfile=$folder/runs/"$$number".flags &
  child=$$!
  wait "$$child"; code=$$?
  if [ "$$stopped" -eq 1 ]; then
    # The signal may have ended that wait early. 127: the training had ended.
    wait "$$child"; last=$$?
    [ "$$last" -ne 127 ] && code=$$last
    [ "$$code" -eq 0 ] && code=75
    exit "$$code"
  fi
  [ "$$code" -eq 0 ] || { echo "run $$number: exit code $$code" >&2; failed=1; }
done
exit "$$failed"
