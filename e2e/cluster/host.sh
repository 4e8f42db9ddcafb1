# shellcheck shell=bash
# What the cluster changes on the machine outside of its state directory, and how
# each change is taken back.

HOST=$STATE/host # what was there before

# Made by the kubelet, containerd or CNI at fixed places.
OUTSIDE_DIRS=(/var/lib/kubelet /var/lib/cni /var/log/containers /run/containerd)

# The kubelet sets all but the last; the bridge plugin sets that.
SYSCTLS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
  kernel.keys.root_maxkeys kernel.keys.root_maxbytes net.ipv4.ip_forward)

sysctl_file() { printf '/proc/sys/%s\n' "${1//.//}"; }

record_host() {
  local dir key file
  mkdir -p "$HOST"
  for dir in "${OUTSIDE_DIRS[@]}"; do
    [[ -e $dir ]] || printf '%s\n' "$dir"
  done >"$HOST/absent-dirs"
  for key in "${SYSCTLS[@]}"; do
    file=$(sysctl_file "$key")
    [[ ! -r $file ]] || printf '%s %s\n' "$key" "$(<"$file")"
  done >"$HOST/sysctls"
  iptables -w -t nat -n -L CNI-HOSTPORT-DNAT >/dev/null 2>&1 || touch "$HOST/no-hostport-chains"
}

restore_host() {
  local dir key value file
  [[ -d $HOST ]] || return 0
  while read -r dir; do
    rm -rf --one-file-system -- "$dir"
  done <"$HOST/absent-dirs"
  # Where the machine has directories of its own, only what is ours goes.
  [[ ! -d /var/log/containers ]] || find /var/log/containers -lname "$STATE/*" -delete
  while read -r key value; do
    file=$(sysctl_file "$key")
    [[ $(<"$file") == "$value" ]] || printf '%s\n' "$value" >"$file"
  done <"$HOST/sysctls"
}

# ---- network ---------------------------------------------------------------

# In a rule's comment, by which it is found again.
RULE=(-m comment --comment arc-hook-e2e)

# The bridge is the node's address (which must not be a loopback one) and the pods'
# gateway. Without a hardware address of its own it has the lowest of its ports', and
# when that pod goes, the others speak to nobody until they ask again, a minute or more.
make_network() {
  # shellcheck disable=SC2046,SC2086  # four numbers
  ip link add "$BRIDGE" address "$(printf '0a:58:%02x:%02x:%02x:%02x' ${NODE_IP//./ })" type bridge
  ip addr add "$NODE_IP/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  # A machine with Docker drops what it forwards, also between ports of a bridge.
  iptables -w -I FORWARD -i "$BRIDGE" -o arc-hook+ "${RULE[@]}" -j ACCEPT
}

# Stands for kube-proxy: the kubelet tells pods that the API server is at 10.96.0.1:443.
route_api() {
  iptables -w -t nat -A PREROUTING -d 10.96.0.1/32 -p tcp --dport 443 "${RULE[@]}" \
    -j DNAT --to-destination "$API_IP:6443"
}

remove_network() {
  local link
  command -v ip iptables >/dev/null || return 0
  # A pod's end goes a moment after its network namespace; ours ends it at once.
  for link in $(ip -o link show master "$BRIDGE" 2>/dev/null | awk -F'[ :@]+' '{ print $2 }'); do
    ip link del "$link" 2>/dev/null || true
  done
  ip link del "$BRIDGE" 2>/dev/null || true
  remove_rules "-i $BRIDGE "
}

# remove_rules [TEXT]: those of ours that contain the text.
remove_rules() {
  local table rule text=${1:-}
  for table in nat filter; do
    # A rule as it is printed is a command line, with quotes round what needs them.
    iptables-save -t "$table" 2>/dev/null | grep -F arc-hook-e2e | grep -F -e "$text" | while read -r rule; do
      xargs -r iptables -w -t "$table" <<<"${rule/#-A/-D}"
    done || true
  done
}

# The portmap plugin leaves its chains when the last port is gone; a killed run leaves
# the pods' as well.
remove_hostport_chains() {
  local chains chain rule
  [[ -e $HOST/no-hostport-chains ]] || return 0
  chains=$(iptables-save -t nat 2>/dev/null | sed -n 's/^:\(CNI-[^ ]*\) .*/\1/p')
  for chain in $chains; do
    iptables -w -t nat -F "$chain"
  done
  iptables-save -t nat 2>/dev/null | grep -e '-j CNI-HOSTPORT-' | while read -r rule; do
    xargs -r iptables -w -t nat <<<"${rule/#-A/-D}"
  done || true
  for chain in $chains; do
    iptables -w -t nat -X "$chain"
  done
}

# ---- cgroups ---------------------------------------------------------------

# The cluster's cgroup in each hierarchy.
our_cgroups() { cgroup_mounts | sed "s|\$|/$CGROUP|"; }

# A kubelet wants its root cgroup in every hierarchy.
make_cgroups() {
  local mount
  for mount in $(cgroup_mounts); do
    mkdir -p "$mount/$NODE_CGROUP"
    if [[ -f $mount/cgroup.controllers ]]; then
      enable_controllers "$mount"
    elif [[ -f $mount/cpuset.cpus ]]; then
      # A cpuset without CPUs takes no process.
      cat "$mount/cpuset.cpus" >"$mount/$NODE_CGROUP/cpuset.cpus"
      cat "$mount/cpuset.mems" >"$mount/$NODE_CGROUP/cpuset.mems"
    fi
  done
}

# On a machine with the second version alone, the limits of pods are there.
enable_controllers() {
  local controller dir
  for controller in $(<"$1/cgroup.controllers"); do
    for dir in "$1" "$1/$CGROUP" "$1/$NODE_CGROUP"; do
      echo "+$controller" >"$dir/cgroup.subtree_control" 2>/dev/null || true
    done
  done
}

# Those of the node.
kill_pods() {
  local groups
  mapfile -t groups < <(cgroup_mounts)
  kill_cgroup "${groups[@]/%//$NODE_CGROUP/kubepods}"
}

kill_all() {
  local groups
  mapfile -t groups < <(our_cgroups)
  kill_cgroup "${groups[@]}"
}

remove_cgroups() {
  local group
  for group in $(our_cgroups); do
    [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

# ---- a node ----------------------------------------------------------------

# The order matters: nothing may start what was ended, and a volume is unmounted
# while the daemon that serves it still answers.
stop_node() {
  stop_daemon "kubelet$OF_NODE"
  remove_shim_sockets
  kill_pods
  stop_daemon "containerd$OF_NODE"
  unmount_below "$KUBELET_ROOT"
  unmount_below "$CONTAINERD_DIR"
}

# ---- shims -----------------------------------------------------------------

# Shims listen below /run/containerd whatever the configuration says; each bundle
# names its socket.
remove_shim_sockets() {
  local address
  find "$CONTAINERD_DIR/run" -name address -type f -exec cat {} \; -exec echo \; 2>/dev/null \
    | sed -n 's|^unix://\(/run/containerd/s/.*\)|\1|p' \
    | while read -r address; do rm -f -- "$address"; done || true
}
