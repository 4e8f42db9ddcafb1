package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What zfs has no property for is kept in user properties of the data set.
const (
	propSize     = "arc-hook:size"
	propNode     = "arc-hook:node"
	propQuota    = "arc-hook:quotatype"
	propShared   = "arc-hook:shared"
	propReserve  = "arc-hook:reserve"
	propDeleting = "arc-hook:deleting"
)

var columns = []string{
	"name", "origin", "recordsize", "compression", "dedup",
	propSize, propNode, propQuota, propShared, propReserve, propDeleting,
}

// command runs one program to its end. Commands are not bound to a request's
// context: a zfs that is killed halfway leaves a snapshot without its clone.
type command func(name string, args ...string) (string, error)

// zfs is one pool, through the command line that zfs-localpv uses too.
type zfs struct {
	run  command
	pool string
	mu   sync.Mutex // held by whoever changes the pool
}

func execute(name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	begin := time.Now()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	slog.Debug("run", "command", name+" "+strings.Join(args, " "),
		"took", time.Since(begin).Round(time.Millisecond).String(), "err", err)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// volumes lists every volume of the pool, those that await destruction too.
func (z *zfs) volumes() ([]volume, error) {
	out, err := z.run("zfs", "list", "-H", "-r", "-t", "filesystem", "-o", strings.Join(columns, ","), z.pool)
	if err != nil {
		return nil, err
	}
	var found []volume
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != len(columns) {
			return nil, fmt.Errorf("zfs list printed %q, expected %d columns", line, len(columns))
		}
		for i := range f {
			if f[i] == "-" {
				f[i] = ""
			}
		}
		size, err := strconv.ParseInt(f[5], 10, 64)
		if err != nil {
			continue // the pool itself, or a data set that is no volume of ours
		}
		found = append(found, volume{
			dataset: f[0], origin: f[1], recordsize: f[2], compression: f[3], dedup: f[4],
			size: size, node: f[6], quotaType: f[7],
			shared: f[8] == "yes", reserve: f[9] == "yes", deleting: f[10] == "yes",
		})
	}
	return found, nil
}

// find returns nil when there is no such volume.
func (z *zfs) find(id string) (*volume, error) {
	all, err := z.volumes()
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.id() == id {
			return &v, nil
		}
	}
	return nil, nil
}

func (z *zfs) create(v volume) error {
	_, err := z.run("zfs", append(append([]string{"create"}, options(v)...), v.dataset)...)
	return err
}

// clone takes the snapshot and makes the clone. A snapshot that is left from an
// attempt which was cut short is used: nothing has seen it yet.
func (z *zfs) clone(v volume) error {
	if _, err := z.run("zfs", "snapshot", v.origin); err != nil && !strings.Contains(err.Error(), "already exists") {
		return err
	}
	err := z.restore(v)
	if err != nil {
		if _, undo := z.run("zfs", "destroy", v.origin); undo != nil {
			slog.Warn("snapshot without clone stays", "snapshot", v.origin, "err", undo)
		}
	}
	return err
}

// restore makes a clone of a snapshot that is there.
func (z *zfs) restore(v volume) error {
	_, err := z.run("zfs", append(append([]string{"clone"}, options(v)...), v.origin, v.dataset)...)
	return err
}

func options(v volume) []string {
	size := strconv.FormatInt(v.size, 10)
	props := []string{
		v.quotaType + "=" + size,
		"mountpoint=legacy",
		propSize + "=" + size,
		propNode + "=" + v.node,
		propQuota + "=" + v.quotaType,
		propShared + "=" + yes(v.shared),
		propReserve + "=" + yes(v.reserve),
	}
	if v.reserve {
		reservation := "reservation"
		if v.quotaType == "refquota" {
			reservation = "refreservation"
		}
		props = append(props, reservation+"="+size)
	}
	for _, p := range [][2]string{{"recordsize", v.recordsize}, {"compression", v.compression}, {"dedup", v.dedup}} {
		if p[1] != "" {
			props = append(props, p[0]+"="+p[1])
		}
	}
	var args []string
	for _, p := range props {
		args = append(args, "-o", p)
	}
	return args
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// markDeleting is what DeleteVolume leaves behind for the reaper.
func (z *zfs) markDeleting(v volume) error {
	_, err := z.run("zfs", "set", propDeleting+"=yes", v.dataset)
	return err
}

// destroy fails while the volume has clones or is in use. The snapshot that was taken
// for a clone goes with it; what hinders that is ignored, as in zfs-localpv.
func (z *zfs) destroy(v volume) error {
	if _, err := z.run("zfs", "destroy", "-r", v.dataset); err != nil {
		return err
	}
	if _, name, _ := strings.Cut(v.origin, "@"); name == v.id() {
		if _, err := z.run("zfs", "destroy", v.origin); err != nil {
			slog.Warn("origin stays", "snapshot", v.origin, "err", err)
		}
	}
	return nil
}

// mount has the daemon mount the data set in its own mount namespace, which is
// the kubelet's. Debian's zfs-fuse comes without a mount.zfs, so setting the
// mount point is the only way.
func (z *zfs) mount(v volume, dir string) error {
	// Setting the value that is already set would do nothing.
	if err := z.unmount(v); err != nil {
		return err
	}
	_, err := z.run("zfs", "set", "mountpoint="+dir, v.dataset)
	return err
}

func (z *zfs) unmount(v volume) error {
	_, err := z.run("zfs", "set", "mountpoint=legacy", v.dataset)
	return err
}

func (z *zfs) free() (int64, error) {
	out, err := z.run("zfs", "get", "-Hp", "-o", "value", "available", z.pool)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(out), 10, 64)
}
