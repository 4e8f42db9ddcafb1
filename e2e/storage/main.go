// Command arc-hook-storage is the storage of the test cluster: one process that
// serves two CSI drivers and registers both with the kubelet.
//
//	zfs.csi.openebs.io           behaves as OpenEBS zfs-localpv does, over zfs-fuse
//	local-path.csi.arc-hook.dev  behaves as rancher's local-path does
//
// zfs-localpv itself needs the kernel module and cannot be had here; what the hook
// depends on are its rules, and those are in controller.go and node.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

type config struct {
	node        string
	kubeletRoot string
	state       string
	pool        string
	delay       time.Duration
	retry       time.Duration
	nodeOnly    bool
}

func main() {
	var c config
	flag.StringVar(&c.node, "node", "", "name of this node")
	flag.StringVar(&c.kubeletRoot, "kubelet-root", "/var/lib/kubelet", "the kubelet's root directory")
	flag.StringVar(&c.state, "state", "", "directory for staging mounts, local-path volumes and faults")
	flag.StringVar(&c.pool, "pool", "zfspv-pool", "ZFS pool")
	flag.DurationVar(&c.delay, "delay", time.Second, "the least time that making a ZFS volume takes; zfs-localpv needs a second")
	flag.DurationVar(&c.retry, "destroy-retry", 5*time.Second, "longest time between two attempts to destroy a volume; 30s in zfs-localpv")
	flag.BoolVar(&c.nodeOnly, "node-only", false, "only mount volumes; another node's driver makes and destroys those of both")
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug})))

	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(c config) error {
	if c.node == "" || c.state == "" {
		return errors.New("--node and --state are needed")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	faults, err := newFaults(filepath.Join(c.state, "faults"))
	if err != nil {
		return err
	}
	pool := &zfs{run: execute, pool: c.pool}
	reaper := newReaper(pool, c.retry)
	local := &localPath{run: execute, mounts: kernelMounter{}, node: c.node, dir: filepath.Join(c.state, "local-path")}

	failed := make(chan error)
	drivers := []driver{
		{
			name:       zfsDriver,
			controller: &controller{zfs: pool, node: c.node, faults: faults, reaper: reaper, delay: c.delay},
			node: &node{zfs: pool, mounts: kernelMounter{}, node: c.node, reaper: reaper,
				staging: filepath.Join(c.state, "zfs")},
		},
		{name: localDriver, controller: local, node: local},
	}
	if c.nodeOnly {
		for i := range drivers {
			drivers[i].controller = csi.UnimplementedControllerServer{}
		}
	} else {
		go reaper.run(ctx)
	}
	for _, d := range drivers {
		if err := d.serve(c.kubeletRoot, failed); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		slog.Info("serving", "driver", d.name)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}
