package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// snapshotPrefix is what the csi-snapshotter's names begin with. The snapshots that
// clones are taken from are named after the clone instead.
const snapshotPrefix = "snapshot-"

// As in zfs-localpv, the id of a snapshot is `VOLUME@SNAPSHOT`, and there is no list.

func (c *controller) CreateSnapshot(ctx context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	begin := time.Now()
	name := strings.ToLower(req.GetName())
	if !strings.HasPrefix(name, snapshotPrefix) {
		return nil, status.Errorf(codes.InvalidArgument, "failed to handle create snapshot request, name %q", name)
	}
	if !c.pending.begin(name) {
		return nil, status.Errorf(codes.Aborted, "snapshot %s request already pending", name)
	}
	defer c.pending.end(name)

	taken, err := c.snapshot(name, strings.ToLower(req.GetSourceVolumeId()))
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Until(begin.Add(c.delay))):
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &csi.CreateSnapshotResponse{Snapshot: taken}, nil
}

func (c *controller) snapshot(name, volumeID string) (*csi.Snapshot, error) {
	c.zfs.mu.Lock()
	defer c.zfs.mu.Unlock()
	v, err := c.zfs.find(volumeID)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if v == nil || v.deleting {
		return nil, status.Errorf(codes.NotFound, "zfsvolumes.zfs.openebs.io %q not found", volumeID)
	}
	all, err := c.zfs.snapshots()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	wanted, found := v.dataset+"@"+name, false
	for _, existing := range all {
		switch {
		case existing == wanted:
			found = true
		case strings.HasSuffix(existing, "@"+name):
			return nil, status.Errorf(codes.AlreadyExists, "snapshot %s is one of another volume: %s", name, existing)
		}
	}
	if !found {
		if err := c.zfs.takeSnapshot(wanted); err != nil {
			return nil, status.Errorf(codes.Internal, "not able to take the snapshot err : %s", err)
		}
	}
	created, err := c.zfs.creation(wanted)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.Snapshot{
		SnapshotId:     v.id() + "@" + name,
		SourceVolumeId: v.id(),
		SizeBytes:      v.size,
		CreationTime:   timestamppb.New(created),
		ReadyToUse:     true,
	}, nil
}

// DeleteSnapshot succeeds also while volumes that were restored from it keep the
// snapshot alive: zfs then lets it go with the last of them.
func (c *controller) DeleteSnapshot(_ context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	volumeID, name, err := snapshotID(req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	c.zfs.mu.Lock()
	defer c.zfs.mu.Unlock()
	all, err := c.zfs.snapshots()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	for _, existing := range all {
		if strings.HasSuffix(existing, "/"+volumeID+"@"+name) {
			if err := c.zfs.dropSnapshot(existing); err != nil {
				return nil, status.Error(codes.Internal, err.Error())
			}
		}
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// restore makes a volume from a snapshot, by the same rules as a clone.
func (c *controller) restore(ctx context.Context, id, from string, size int64, params map[string]string) (volume, error) {
	volumeID, name, err := snapshotID(from)
	if err != nil {
		return volume{}, err
	}
	source, err := c.source(volumeID, size, params)
	if err != nil {
		return volume{}, err
	}
	v := source.cloned(id)
	v.origin = source.dataset + "@" + name
	return c.copied(ctx, v, params, c.zfs.restore)
}

// refuseWithSnapshots keeps a volume from taking its snapshots along, as zfs-localpv
// does since 2.7.
func (c *controller) refuseWithSnapshots(v volume) error {
	all, err := c.zfs.snapshots()
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	for _, existing := range all {
		if strings.HasPrefix(existing, v.dataset+"@") {
			return status.Errorf(codes.FailedPrecondition, "volume %s has the snapshot %s, delete that first", v.id(), existing)
		}
	}
	return nil
}

func snapshotID(id string) (volumeID, name string, err error) {
	volumeID, name, ok := strings.Cut(id, "@")
	if !ok || volumeID == "" || !strings.HasPrefix(name, snapshotPrefix) {
		return "", "", status.Errorf(codes.InvalidArgument, "snapshot id %q is not VOLUME@SNAPSHOT", id)
	}
	return volumeID, name, nil
}

// snapshots lists those that were asked for, but for those that have been deleted and
// only wait for their last clone.
func (z *zfs) snapshots() ([]string, error) {
	out, err := z.run("zfs", "list", "-H", "-r", "-t", "snapshot", "-o", "name,defer_destroy", z.pool)
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(out) {
		name, deleted, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if _, short, _ := strings.Cut(name, "@"); strings.HasPrefix(short, snapshotPrefix) && deleted != "on" {
			found = append(found, name)
		}
	}
	return found, nil
}

func (z *zfs) takeSnapshot(name string) error {
	_, err := z.run("zfs", "snapshot", name)
	return err
}

func (z *zfs) dropSnapshot(name string) error {
	_, err := z.run("zfs", "destroy", "-d", name)
	return err
}

func (z *zfs) creation(snapshot string) (time.Time, error) {
	out, err := z.run("zfs", "get", "-Hp", "-o", "value", "creation", snapshot)
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	return time.Unix(seconds, 0), err
}
