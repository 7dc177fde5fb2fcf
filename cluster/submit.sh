#!/usr/bin/env bash
# Submits a command to a cluster as a Ray job and follows its output; run it in the checkout.
#
#   cluster/submit.sh ambient-sweep run search_spaces/digits.yaml --storage /absolute/path
#
# $RAY_API_SERVER_ADDRESS: the head's dashboard (http://127.0.0.1:8265 by default). $RAY_AUTH_TOKEN_PATH: the token
# that the head was started with. The job runs in a copy of this folder without what .gitignore names, so storage must
# be an absolute path, one that every node sees.
set -euo pipefail

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ambient-sweep/ray-token}
export RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}
# `ray job stop` then interrupts the sweep in good order instead of killing it after 3 seconds
revision=$(git rev-parse HEAD 2>/dev/null || true) # recorded with the results, since the copy has no git
exec ray job submit --working-dir . \
    --runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60", "AMBIENT_SWEEP_REVISION": "'"$revision"'"}}' -- "$@"
