//go:build tools

// Package containerd pins the runtime of the test cluster's second node: its version is in
// go.mod, and ../cluster builds it. The first node's is Debian's.
package containerd

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
	_ "github.com/opencontainers/runc"
)
