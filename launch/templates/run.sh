#!/bin/bash
# $name, on this machine. Run it again after a stop: it resumes.
# Exit codes: 0 done, 64 wrong command, 65 wrong data, 75 stopped with its
# state saved (run it again), 1 anything else.
cd $directory || exit 64
$environment
$setup
set -u
# exec: the process that a SIGTERM is sent to is Python itself.
exec $line
