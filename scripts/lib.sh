# Shared by the scripts here; sourced, not run.
# shellcheck shell=bash
# shellcheck disable=SC2034 # variables here are for the scripts that source this

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '==> %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The user whom servers run as: PostgreSQL refuses to run as root.
if [ "$(id -u)" -eq 0 ]; then server_user=postgres; else server_user=$(id -un); fi

# Runs a command as the servers' user.
as_server_user() {
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid "$server_user" --regid "$server_user" --init-groups -- "$@"
    else
        "$@"
    fi
}

# Ids of server processes whose executable or working directory is below a directory: how a script recognises what it
# started, whatever happened to pid files. A shell that somebody opened there is not a server.
pids_in() {
    local pid exe cwd
    for pid in /proc/[0-9]*; do
        exe=$(readlink "$pid/exe" 2>/dev/null) || continue
        case "${exe##*/}" in
        postgres* | pg_* | initdb* | etcd* | python3* | patroni*) ;;
        *) continue ;;
        esac
        cwd=$(readlink "$pid/cwd" 2>/dev/null) || cwd=
        case "$exe:$cwd" in
        "$1"/* | *:"$1" | *:"$1"/*) echo "${pid#/proc/}" ;;
        esac
    done
}

# Ends everything below a directory: asks first (SIGTERM), insists after a while.
stop_all_in() {
    local directory=$1 grace_s=${2:-15} pids
    mapfile -t pids < <(pids_in "$directory")
    [ ${#pids[@]} -gt 0 ] || return 0
    if [ "$grace_s" -gt 0 ]; then
        kill "${pids[@]}" 2>/dev/null || true
        for _ in $(seq $((grace_s * 5))); do
            [ -n "$(pids_in "$directory")" ] || return 0
            sleep 0.2
        done
    fi
    for _ in $(seq 50); do
        mapfile -t pids < <(pids_in "$directory")
        [ ${#pids[@]} -gt 0 ] || return 0
        kill -9 "${pids[@]}" 2>/dev/null || true
        sleep 0.1
    done
    die "processes ${pids[*]} in $directory do not end"
}

# The newest PostgreSQL on this machine that has a server.
postgres_bin() {
    local newest
    newest=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)
    [ -x "$newest" ] || die "no PostgreSQL server in /usr/lib/postgresql: run scripts/install-deps"
    dirname "$newest"
}
