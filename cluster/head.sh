#!/usr/bin/env bash
# Starts a Ray head on this machine, in the foreground; Ctrl-C ends it.
#
#   cluster/head.sh [options of `ray start`]
#
# The dashboard, which takes jobs, listens on 127.0.0.1 alone; Ray's other ports listen on the machine's address, so that
# workers can join. Whoever reaches an open Ray port can run code, so every request needs the token in
# $RAY_AUTH_TOKEN_PATH (made at the first start, readable by you alone). A token is not encryption: keep the ports
# behind a firewall, and reach the dashboard from elsewhere by an SSH tunnel. docs/cluster.md lists the ports.
set -euo pipefail

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ambient-sweep/ray-token}
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    (
        umask 077
        mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
        python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
    )
fi
# Ray opens its session (logs, sockets, working directories of jobs) to everyone here; the folder around it is yours alone.
export RAY_TMPDIR=${RAY_TMPDIR:-$(mktemp -d /tmp/ray-XXXXXX)}
# Metrics for Prometheus ask for no token and would listen on all addresses; -1 is no port, so Ray opens none.
export RAY_enable_metrics_collection=0 DASHBOARD_METRIC_PORT=-1 AUTOSCALER_METRIC_PORT=-1
exec ray start --head --block --dashboard-host 127.0.0.1 --disable-usage-stats "$@"
