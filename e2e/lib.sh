# shellcheck shell=bash
# Shared by every script of the test cluster; source it after `set -euo pipefail`.
#
# Two directories hold all that a cluster makes:
#   STATE  what one run makes; `down` removes it, and `up` begins without it.
#   CACHE  what is built once: binaries, images of the local registry, stamps.

E2E_DIR=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
REPO_DIR=$(dirname -- "$E2E_DIR")

# Resolved, because the kernel's mount table names real paths only.
STATE=$(realpath -m -- "${ARC_HOOK_E2E_STATE:-/var/lib/arc-hook-e2e}")
CACHE=$(realpath -m -- "${ARC_HOOK_E2E_CACHE:-$HOME/.cache/arc-hook-e2e}")
BIN=$CACHE/bin
RUNTIME_BIN=$CACHE/runtime # of the second node; the first has the machine's own
STAMPS=$CACHE/stamps
BUILD_LOG=$CACHE/log   # of builds; outlives `down`
LOG=$STATE/log         # of daemons
RUN=$STATE/run         # one record per daemon

# What is tested, as it stands in the runner image; and what tests it, as `cargo test`
# builds it, so that its many dependencies are compiled once only.
DIST_BIN=$REPO_DIR/target/x86_64-unknown-linux-musl/dist
TEST_BIN=$REPO_DIR/target/x86_64-unknown-linux-musl/debug

# The names below are for the scripts that source this one.
# shellcheck disable=SC2034
{
  ADMIN_KUBECONFIG=$STATE/kubeconfig
  AUDIT_LOG=$LOG/audit.log # requests of the runners' namespace, as JSON lines
  REGISTRY=127.0.0.1:5000
  # The same images for those who know the password; harness/private.rs says the same.
  PRIVATE_PORTS=(5001 5002 5003)
  API_IP=10.244.0.1
  PAUSE_IMAGE=docker.io/library/pause:e2e
  RUNNER_NAMESPACE=arc-runners
  ZPOOL=zfspv-pool
}

# Every process of the cluster lives below this cgroup, so that a run which
# was killed can be cleared without guessing from process names.
CGROUP=arc-hook-e2e

# use_node N: from then on the names below are those of the Nth node. The first is always
# there, the second while a test wants it (cluster/node).
# shellcheck disable=SC2034
use_node() {
  local last=$(($1 - 1))
  NODE_NUMBER=$1
  NODE_NAME=node-$1
  OF_NODE= # the end of all names that a machine with one node would not need
  NODE_CGROUP=$CGROUP
  ((last == 0)) || OF_NODE=-$1 NODE_CGROUP=$CGROUP/node-$1
  BRIDGE=arc-hook$last
  NODE_IP=10.244.$last.1
  POD_CIDR=10.244.$last.0/24
  KUBELET_ROOT=$STATE/kubelet$OF_NODE
  PLUGINS_REGISTRY=$KUBELET_ROOT/plugins_registry
  CONTAINERD_DIR=$STATE/containerd$OF_NODE
  CONTAINERD_SOCKET=$CONTAINERD_DIR/containerd.sock
  CNI_DIR=$STATE/cni$OF_NODE
}
use_node 1

log() { printf '%s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# ---- packages and tools ----------------------------------------------------

package_installed() {
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Installs those Debian packages that are missing.
need_packages() {
  local missing=() package
  for package in "$@"; do
    package_installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  run_logged "Debian packages: ${missing[*]}" "$BUILD_LOG/apt.log" \
    install_packages "${missing[@]}"
}

install_packages() {
  local rc=0 lock
  mkdir -p "$CACHE"
  # Builds run side by side, and `apt-get update` does not wait for another.
  exec {lock}>"$CACHE/apt.lock"
  flock "$lock"
  forbid_services
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"; } </dev/null || rc=$?
  allow_services
  exec {lock}>&-
  return "$rc"
}

# Some of the packages start a daemon on installation, which would then hold the port
# or the lock that ours needs.
SERVICE_POLICY=/usr/sbin/policy-rc.d

forbid_services() {
  [[ ! -e $SERVICE_POLICY ]] || return 0
  printf '#!/bin/sh\n# arc-hook-e2e\nexit 101\n' >"$SERVICE_POLICY"
  chmod 755 "$SERVICE_POLICY"
}

allow_services() {
  ! grep -qsx '# arc-hook-e2e' "$SERVICE_POLICY" || rm -f "$SERVICE_POLICY"
}

need_commands() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || die "\`$command\` is not on PATH: install it first (see the README)"
  done
}

need_root() {
  ((EUID == 0)) || die "the test cluster needs root (mounts, a bridge, cgroups)"
}

# ---- progress --------------------------------------------------------------

# run_logged WHAT FILE COMMAND...: runs COMMAND with its output in FILE, says what
# is done, that it still goes on, and how long it took; on failure the end of FILE.
run_logged() {
  local what=$1 file=$2 begin=$SECONDS rc=0 ticker
  shift 2
  mkdir -p "$(dirname -- "$file")"
  log "$what ..."
  # The ticker ends when the pipe to it closes, so also when this shell is killed;
  # therefore the command must not inherit the pipe.
  exec {ticker}> >(
    while read -r -t 30 || (($? > 128)); do
      log "$what: still at it after $((SECONDS - begin)) s"
    done
  )
  # No errexit inside a shell function that runs here: chain its commands with `&&`.
  eval '"$@" </dev/null >"$file" 2>&1 '"$ticker>&-" || rc=$?
  exec {ticker}>&-
  if ((rc)); then
    log "$what: failed with status $rc after $((SECONDS - begin)) s; the end of $file:"
    tail -n 40 "$file" >&2
    return "$rc"
  fi
  log "$what: done in $((SECONDS - begin)) s"
}

# ---- freshness -------------------------------------------------------------

# Hash of files and of all files below directories, names included.
inputs_hash() {
  find "$@" -type f -not -path '*/target/*' -print0 | sort -z \
    | xargs -0 sha256sum | sed "s|$REPO_DIR/||" | sha256sum | cut -d' ' -f1
}

# fresh NAME INPUT...: whether NAME was last stamped with the same inputs.
fresh() {
  local name=$1
  shift
  [[ -f $STAMPS/$name && $(<"$STAMPS/$name") == "$(inputs_hash "$@")" ]]
}

# stamp NAME INPUT...: records the inputs that NAME has just been made from.
stamp() {
  local name=$1
  shift
  mkdir -p "$STAMPS"
  inputs_hash "$@" >"$STAMPS/$name"
}

# ---- cgroups ---------------------------------------------------------------

cgroup_mounts() {
  awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/self/mounts | sort -u
}

# The one hierarchy in which the daemons are kept: the second version where it is
# mounted, for no daemon needs limits and `cgroup.kill` is there.
tracking_cgroup() {
  local mount
  mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
  [[ -n $mount ]] || mount=$(awk '$3 == "cgroup" && $4 ~ /freezer/ { print $2; exit }' /proc/self/mounts)
  [[ -n $mount ]] || die "neither cgroup2 nor the freezer cgroup is mounted"
  printf '%s/%s\n' "$mount" "$CGROUP"
}

# ---- daemons ---------------------------------------------------------------

BOOT_ID=$(</proc/sys/kernel/random/boot_id)

# Start time of a process in clock ticks since boot; fails for a dead one.
start_time() {
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The name in parentheses may hold blanks, so count from behind it.
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != Z ]] || return 1
  printf '%s\n' "${fields[19]}"
}

# The pid of a daemon, if that very process is alive: a pid alone may by now
# belong to a stranger.
daemon_pid() {
  local pid start boot
  [[ -f $RUN/$1 ]] && read -r pid start boot <"$RUN/$1" || return 1
  [[ $boot == "$BOOT_ID" && $(start_time "$pid") == "$start" ]] || return 1
  printf '%s\n' "$pid"
}

daemon_alive() { daemon_pid "$1" >/dev/null; }

# start_daemon NAME COMMAND...: starts COMMAND detached from the caller, in its own
# session and cgroup, with its output in $LOG/NAME.log. Readiness is the
# caller's to await.
start_daemon() {
  local name=$1 group
  shift
  group=$(tracking_cgroup)/$name
  mkdir -p "$RUN" "$LOG" "$group"
  rm -f "$RUN/$name"
  # The environment is emptied because a proxy set there would come between the
  # daemons. The inner shell closes what it inherited (a lock, a caller's pipe).
  # shellcheck disable=SC2016
  (
    cd "$STATE" || exit 1
    exec setsid env -i PATH="$BIN:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
      HOME="${HOME:-/root}" LANG=C.UTF-8 bash -c '
        set -e
        echo $$ >"$2/cgroup.procs"
        for fd in /proc/$$/fd/*; do
          fd=${fd##*/}
          if ((fd > 2 && fd != 255)); then eval "exec $fd>&-"; fi
        done
        stat=$(</proc/$$/stat)
        read -ra fields <<<"${stat##*) }"
        echo "$$ ${fields[19]} $3" >"$1.new"
        mv "$1.new" "$1"
        shift 3
        exec "$@"' "$name" "$RUN/$name" "$group" "$BOOT_ID" "$@"
  ) </dev/null >>"$LOG/$name.log" 2>&1 &
  disown
  local _
  for _ in {1..400}; do
    [[ ! -e $RUN/$name ]] || return 0
    sleep 0.05
  done
  fail_daemon "$name" "did not start"
}

fail_daemon() {
  log "error: $1 $2; the end of $LOG/$1.log:"
  tail -n 30 "$LOG/$1.log" >&2 || true
  exit 1
}

# await_daemon NAME SECONDS COMMAND...: until COMMAND succeeds; fails when the daemon
# has ended or the time is over.
await_daemon() {
  local name=$1 deadline=$((SECONDS + $2))
  local limit=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    daemon_alive "$name" || fail_daemon "$name" "has ended"
    ((SECONDS < deadline)) || fail_daemon "$name" "was not ready after $limit s (\`$*\`)"
    sleep 0.1
  done
}

# await WHAT SECONDS COMMAND...: the same for what is no daemon.
await() {
  local what=$1 limit=$2 deadline=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die "$what: not so after $limit s (\`$*\`)"
    sleep 0.1
  done
}

# stop_daemon NAME [SIGNAL [SECONDS]]: the signal, then SIGKILL to it and to all that
# it left behind (the containers' shims, for one).
stop_daemon() {
  local name=$1 signal=${2:-KILL} limit=${3:-5} pid tries
  if pid=$(daemon_pid "$name"); then
    kill -s "$signal" "$pid" 2>/dev/null || true
    for ((tries = 0; tries < limit * 20; tries++)); do
      daemon_alive "$name" || break
      sleep 0.05
    done
  fi
  kill_cgroup "$(tracking_cgroup)/$name"
  rm -f "$RUN/$name"
}

# Every process in the given cgroups and below them, this shell excepted.
cgroup_pids() {
  find "$@" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un | grep -vxF -e "$$" -e 0 || true
}

# Kills all processes of the given cgroups until there are none: they may fork meanwhile.
kill_cgroup() {
  local pids _
  for _ in {1..200}; do
    pids=$(cgroup_pids "$@")
    [[ -n $pids ]] || return 0
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
  log "warning: processes outlive SIGKILL: ${pids//$'\n'/ } (in $*)"
}

# Kills a process and its descendants. Stopped first, it cannot start another meanwhile.
kill_tree() {
  local pid
  kill -STOP "$1" 2>/dev/null || return 0
  for pid in $(ps -o pid= --ppid "$1"); do
    kill_tree "$pid"
  done
  kill -KILL "$1" 2>/dev/null || true
}

# ---- mounts ----------------------------------------------------------------

# Mount points at or below a directory, the latest first.
mounts_below() {
  local point
  awk '{ print $5 }' /proc/self/mountinfo | tac | while read -r point; do
    # The table writes a blank as \040.
    [[ $point != *\\* ]] || printf -v point '%b' "${point//\\/\\0}"
    [[ $point != "$1" && $point != "$1"/* ]] || printf '%s\n' "$point"
  done
}

unmount_below() {
  local point begin
  mounts_below "$1" | while read -r point; do
    begin=$SECONDS
    # A file system whose daemon is dead, or that a stranger uses, is detached.
    timeout 10 umount -- "$point" 2>/dev/null || umount -l -- "$point" 2>/dev/null || true
    ((SECONDS - begin < 5)) || log "warning: unmounting $point took $((SECONDS - begin)) s"
  done
}

# A loop device outlives its mount where it was set up by hand.
detach_loops_below() {
  local device
  losetup -n -l -O NAME,BACK-FILE 2>/dev/null | awk -v dir="$1/" 'index($2, dir) == 1 { print $1 }' \
    | while read -r device; do losetup -d "$device" 2>/dev/null || true; done
}

# ---- the local registry ----------------------------------------------------

# Whether the registry has REPOSITORY:TAG. It must be told which manifests are
# understood, or it tries to make one of the oldest kind.
image_in_registry() {
  curl -fsS --noproxy '*' -o /dev/null --max-time 10 \
    -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' \
    -H 'Accept: application/vnd.oci.image.manifest.v1+json' \
    -H 'Accept: application/vnd.oci.image.index.v1+json' \
    "http://$REGISTRY/v2/${1%:*}/manifests/${1##*:}" 2>/dev/null
}

# ---- one at a time ---------------------------------------------------------

# Holds the lock of the test cluster until the calling script ends.
lock_cluster() {
  [[ -z ${E2E_LOCKED:-} ]] || return 0
  mkdir -p "$CACHE"
  exec 9>"$CACHE/lock"
  if ! flock -n 9; then
    log "waiting for another run of the test cluster's scripts ..."
    flock -w 3600 9 || die "another run still holds $CACHE/lock"
  fi
  export E2E_LOCKED=1
}

kubectl() { "$BIN/kubectl" --kubeconfig "$ADMIN_KUBECONFIG" "$@"; }
