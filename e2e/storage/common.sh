# shellcheck shell=bash
# Shared by start and stop; source it after ../lib.sh.

STORAGE=$STATE/storage
ZFS_TEMPLATE=$REPO_DIR/hook-templates/openebs-zfs.yaml
# The data set below which the template's class makes its volumes.
# shellcheck disable=SC2034
DATASET=$(awk '$1 == "poolname:" { print $2 }' "$ZFS_TEMPLATE")

# Definitions of VolumeSnapshot and its like.
# shellcheck disable=SC2034
SNAPSHOT_CRDS=$CACHE/snapshot-crds

# The daemon of the node and what the kubelet finds it by.
await_driver() {
  local name
  for name in zfs.csi.openebs.io local-path.csi.arc-hook.dev; do
    await_daemon "storage-driver$OF_NODE" 10 test -S "$PLUGINS_REGISTRY/$name-reg.sock"
  done
}

drivers_registered() {
  local names
  names=$(kubectl get csinode "$NODE_NAME" -o 'jsonpath={.spec.drivers[*].name}')
  [[ $names == *zfs.csi.openebs.io* && $names == *local-path.csi.arc-hook.dev* ]]
}

# Every mount of our volumes, wherever it is, the latest first: those of the pool, and
# those of the file systems that are mounted below $STORAGE.
storage_mounts() {
  tac /proc/self/mountinfo | awk -v dir="$STORAGE/" -v pool="$ZPOOL/" '
    { line[NR] = $5; device[NR] = $3
      for (i = 7; $i != "-"; i++);
      if (index($5, dir) == 1 || index($(i + 2), pool) == 1) ours[$3] = 1 }
    END { for (i = 1; i <= NR; i++) if (device[i] in ours) print line[i] }' \
    | while read -r point; do printf '%b\n' "${point//\\/\\0}"; done
}

unmount_storage() {
  local point
  storage_mounts | while read -r point; do
    # Lazily where it is in use, or where the daemon behind it is dead.
    timeout 10 umount -- "$point" 2>/dev/null || umount -l -- "$point" 2>/dev/null || true
  done
}

# The commands hang when the daemon does.
zpool() { timeout 20 zpool "$@"; }
zfs() { timeout 20 zfs "$@"; }
