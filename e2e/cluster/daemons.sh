# shellcheck shell=bash
# The daemons of the cluster with their flags: one function each, so that a test
# can restart one exactly as it was started.

PKI=$STATE/pki
API=https://127.0.0.1:6443
SERVICE_CIDR=10.96.0.0/16
# Where the service account tokens are said to come from; a name, never resolved.
ISSUER=https://kubernetes.default.svc

get() { curl -fsS --noproxy '*' --max-time 2 "$@"; }

start_registry() {
  start_daemon registry docker-registry serve "$STATE/registry.yml"
}

start_private_registry() {
  start_daemon "registry-$1" docker-registry serve "$STATE/registry-$1.yml"
}

await_private_registry() {
  await_daemon "registry-$1" 20 get --user "user-$1:password-of-$1" "http://127.0.0.1:$1/v2/"
}

await_registry() { await_daemon registry 20 get "http://$REGISTRY/v2/"; }

start_etcd() {
  # Nothing here must survive a crash of the machine, so no fsync.
  start_daemon etcd etcd --name "$NODE_NAME" --data-dir "$STATE/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster "$NODE_NAME=http://127.0.0.1:2380" --log-level warn
}

await_etcd() { await_daemon etcd 30 get http://127.0.0.1:2379/health; }

# The kubelet's address is preferred by its number because no DNS knows the node's
# name; the endpoint reconciler is off because it would wait for a lease on exit.
start_apiserver() {
  start_daemon apiserver kube-apiserver \
    --etcd-servers http://127.0.0.1:2379 \
    --bind-address 0.0.0.0 --advertise-address "$API_IP" --secure-port 6443 \
    --endpoint-reconciler-type none \
    --service-cluster-ip-range "$SERVICE_CIDR" \
    --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
    --client-ca-file "$PKI/ca.crt" --token-auth-file "$PKI/tokens.csv" \
    --kubelet-client-certificate "$PKI/apiserver-kubelet.crt" \
    --kubelet-client-key "$PKI/apiserver-kubelet.key" \
    --kubelet-preferred-address-types InternalIP \
    --service-account-issuer "$ISSUER" \
    --service-account-key-file "$PKI/sa.pub" --service-account-signing-key-file "$PKI/sa.key" \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --audit-policy-file "$STATE/audit.yaml" --audit-log-path "$AUDIT_LOG" \
    --allow-privileged --profiling=false
}

await_apiserver() { await_daemon apiserver 90 get --cacert "$PKI/ca.crt" "$API/readyz"; }

# Without the root CA the ConfigMap `kube-root-ca.crt` is there, but empty.
start_controller_manager() {
  start_daemon controller-manager kube-controller-manager \
    --kubeconfig "$PKI/controller-manager.kubeconfig" --leader-elect=false \
    --service-account-private-key-file "$PKI/sa.key" --root-ca-file "$PKI/ca.crt" \
    --use-service-account-credentials --bind-address 127.0.0.1 --profiling=false
}

await_controller_manager() {
  await_daemon controller-manager 60 get -k https://127.0.0.1:10257/healthz
}

start_scheduler() {
  start_daemon scheduler kube-scheduler \
    --kubeconfig "$PKI/scheduler.kubeconfig" --leader-elect=false --bind-address 127.0.0.1
}

await_scheduler() { await_daemon scheduler 60 get -k https://127.0.0.1:10259/healthz; }

# It finds its shim by PATH.
start_containerd() {
  local runtime=()
  ((NODE_NUMBER == 1)) || runtime=(env "PATH=$RUNTIME_BIN:$PATH")
  start_daemon "containerd$OF_NODE" "${runtime[@]}" containerd \
    --config "$CONTAINERD_DIR/config.toml"
}

await_containerd() {
  await_daemon "containerd$OF_NODE" 30 ctr --address "$CONTAINERD_SOCKET" version
}

start_kubelet() {
  start_daemon "kubelet$OF_NODE" kubelet --config "$STATE/kubelet$OF_NODE.yaml" \
    --kubeconfig "$PKI/kubelet$OF_NODE.kubeconfig" --root-dir "$KUBELET_ROOT" \
    --cert-dir "$PKI/kubelet$OF_NODE" --hostname-override "$NODE_NAME" --node-ip "$NODE_IP"
}

await_kubelet() {
  await_daemon "kubelet$OF_NODE" 60 get "http://127.0.0.1:$((10247 + NODE_NUMBER))/healthz"
}

node_ready() {
  local node
  node=$(kubectl get node "$NODE_NAME" \
    -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status} {.spec.taints}') || return 1
  [[ $node == "True " ]]
}
