# shellcheck shell=bash
# Keys, kubeconfigs and configuration files of the daemons.

PKI=$STATE/pki

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

make_ca() {
  new_key "$PKI/ca.key"
  openssl req -x509 -new -key "$PKI/ca.key" -out "$PKI/ca.crt" -days 3650 \
    -subj /CN=arc-hook-e2e-ca -addext 'keyUsage=critical,keyCertSign,cRLSign'
}

# make_leaf NAME SUBJECT EXTENSION...: a certificate that is no CA, for rustls refuses a
# CA that serves.
make_leaf() {
  local name=$1 subject=$2
  shift 2
  new_key "$PKI/$name.key"
  openssl req -new -key "$PKI/$name.key" -subj "$subject" \
    | openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 3650 \
      -extfile <(printf '%s\n' 'basicConstraints=critical,CA:FALSE' "$@") -out "$PKI/$name.crt"
}

make_certificates() {
  make_ca
  make_leaf apiserver /CN=kube-apiserver extendedKeyUsage=serverAuth \
    "subjectAltName=IP:127.0.0.1,IP:$API_IP,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  make_leaf apiserver-kubelet /O=system:masters/CN=kube-apiserver extendedKeyUsage=clientAuth
  openssl genrsa -out "$PKI/sa.key" 2048
  openssl rsa -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub"
}

# write_user FILE USER UID [GROUP]: a token for the user, and its kubeconfig.
write_user() {
  local file=$1 user=$2 uid=$3 group=${4:-} token
  token=$(openssl rand -hex 16)
  printf '%s,%s,%s,"%s"\n' "$token" "$user" "$uid" "$group" >>"$PKI/tokens.csv"
  install -m 600 /dev/null "$file"
  cat >"$file" <<YAML
apiVersion: v1
kind: Config
current-context: e2e
clusters:
- name: e2e
  cluster:
    server: https://127.0.0.1:6443
    certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
contexts:
- name: e2e
  context: {cluster: e2e, user: "$user"}
users:
- name: "$user"
  user: {token: $token}
YAML
}

# The second node's kubelet comes by certificate, because the API server reads its
# tokens once, when it starts.
write_node_user() {
  local name=kubelet$OF_NODE
  make_leaf "$name" "/O=system:nodes/CN=system:node:$NODE_NAME" extendedKeyUsage=clientAuth \
    2>"$PKI/openssl.log" || die "openssl: $(<"$PKI/openssl.log")"
  install -m 600 /dev/null "$PKI/$name.kubeconfig"
  cat >"$PKI/$name.kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: e2e
clusters:
- name: e2e
  cluster:
    server: https://127.0.0.1:6443
    certificate-authority: $PKI/ca.crt
contexts:
- name: e2e
  context: {cluster: e2e, user: node}
users:
- name: node
  user: {client-certificate: $PKI/$name.crt, client-key: $PKI/$name.key}
YAML
}

write_users() {
  rm -f "$PKI/tokens.csv"
  write_user "$ADMIN_KUBECONFIG" admin 1 system:masters
  write_user "$PKI/controller-manager.kubeconfig" system:kube-controller-manager 2
  write_user "$PKI/scheduler.kubeconfig" system:kube-scheduler 3
  write_user "$PKI/kubelet.kubeconfig" "system:node:$NODE_NAME" 4 system:nodes
}

write_registry_config() {
  mkdir -p "$CACHE/registry"
  cat >"$STATE/registry.yml" <<YAML
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: $CACHE/registry}
  delete: {enabled: true}
http: {addr: $REGISTRY}
YAML
}

# write_private_registry PORT: a view of the same images with a user of its own, whose
# password does for no other.
write_private_registry() {
  local file=$STATE/registry-$1.yml users=$STATE/registry-$1.htpasswd
  # shellcheck disable=SC2016
  perl -e 'printf "%s:%s\n", $ARGV[0], crypt($ARGV[1], q($2b$04$arc.hook.e2e.registry.))' \
    "user-$1" "password-of-$1" >"$users"
  cat >"$file" <<YAML
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: $CACHE/registry}
  maintenance: {readonly: {enabled: true}, uploadpurging: {enabled: false}}
http: {addr: "127.0.0.1:$1"}
auth: {htpasswd: {realm: "private images at $1", path: $users}}
YAML
}

# write_hosts HOST REGISTRY: where the node's container runtime pulls what HOST is said to
# have. It looks there at each pull.
write_hosts() {
  local dir=$CONTAINERD_DIR/certs.d/$1
  mkdir -p "$dir"
  cat >"$dir/hosts.toml" <<TOML
server = "http://$2"

[host."http://$2"]
  capabilities = ["pull", "resolve"]
TOML
}

# Ordinary image names resolve to the local registry.
write_registry_hosts() {
  local host
  for host in docker.io ghcr.io "$REGISTRY"; do
    write_hosts "$host" "$REGISTRY"
  done
}

# Every directory is our own, so that a containerd of the machine's stays untouched.
# `restrict_oom_score_adj`: without CAP_SYS_RESOURCE the value cannot be lowered, and
# runc ends with "can't get final child's PID from pipe: EOF".
write_containerd_config() {
  mkdir -p "$CONTAINERD_DIR"
  if ((NODE_NUMBER == 1)); then
    containerd_1_config
  else
    containerd_2_config
  fi >"$CONTAINERD_DIR/config.toml"
}

# Debian's, which cannot mount an image as a volume.
containerd_1_config() {
  local dir=$CONTAINERD_DIR
  cat <<TOML
version = 2
root = "$dir/root"
state = "$dir/run"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "$CONTAINERD_SOCKET"

[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "$CNI_DIR/net.d"

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "$dir/certs.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = "$dir/runc"
TOML
}

# The one that ../containerd pins, which can.
containerd_2_config() {
  local dir=$CONTAINERD_DIR
  cat <<TOML
version = 3
root = "$dir/root"
state = "$dir/run"
oom_score = 0
disabled_plugins = [
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "$CONTAINERD_SOCKET"

[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "$PAUSE_IMAGE"

[plugins."io.containerd.cri.v1.images".registry]
  config_path = "$dir/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "$CNI_DIR/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "$RUNTIME_BIN/runc"
  Root = "$dir/runc"
TOML
}

write_cni_config() {
  mkdir -p "$CNI_DIR/net.d"
  cat >"$CNI_DIR/net.d/10-$BRIDGE.conflist" <<JSON
{
  "cniVersion": "0.4.0",
  "name": "$BRIDGE",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "$BRIDGE",
      "isGateway": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "$CNI_DIR/networks",
        "ranges": [[{"subnet": "$POD_CIDR", "gateway": "$NODE_IP"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
}

# Image collection is off: the images come from the local registry, and one that is
# collected in the middle of a benchmark would falsify it.
write_kubelet_config() {
  cat >"$STATE/kubelet$OF_NODE.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
healthzPort: $((10247 + NODE_NUMBER))
containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
podLogsDir: $STATE/pod-logs$OF_NODE
volumePluginDir: $KUBELET_ROOT/volume-plugins
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $PKI/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$NODE_CGROUP
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: [pods]
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
resolvConf: ""
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
imageGCHighThresholdPercent: 100
evictionHard:
  memory.available: 100Mi
  nodefs.available: 1%
  nodefs.inodesFree: 1%
  imagefs.available: 1%
YAML
}

# One line for each request of a pod that is not Kubernetes' own, when it is answered: by
# it, API calls can be counted from outside of the program that makes them.
write_audit_policy() {
  cat >"$STATE/audit.yaml" <<YAML
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
YAML
}

write_config() {
  mkdir -p "$PKI"
  chmod 700 "$PKI"
  # A key belongs to its state directory: neither is made anew without the other.
  if [[ ! -f $PKI/complete ]]; then
    make_certificates 2>"$PKI/openssl.log" || die "openssl: $(<"$PKI/openssl.log")"
    write_users
    touch "$PKI/complete"
  fi
  write_audit_policy
  write_node_config
}

write_node_config() {
  write_registry_hosts
  write_containerd_config
  write_cni_config
  write_kubelet_config
}
