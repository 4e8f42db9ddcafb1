//go:build tools

// Package provisioner pins the CSI external-provisioner that turns claims into
// calls of the storage driver: its version is in go.mod, and ../build builds it.
package provisioner

import _ "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner"
