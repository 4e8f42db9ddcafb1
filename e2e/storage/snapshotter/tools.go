//go:build tools

// Package snapshotter pins the CSI external-snapshotter that turns VolumeSnapshots into
// calls of the storage driver: its version is in go.mod, and ../build builds it.
package snapshotter

import (
	_ "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter"
	_ "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller"
)
