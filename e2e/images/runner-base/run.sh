#!/bin/bash
# Where the official script starts the listener, which starts a worker per job, this
# one starts the worker of the test cluster at once.
exec /home/runner/bin/Runner.Worker "$@"
