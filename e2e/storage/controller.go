package main

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	zfsDriver   = "zfs.csi.openebs.io"
	zfsTopology = "openebs.io/nodeid"
)

// controller makes and deletes volumes by the rules of zfs-localpv, error texts
// included: what the hook and its users see of a refusal is only that text, in
// an event of the claim.
type controller struct {
	csi.UnimplementedControllerServer

	zfs    *zfs
	node   string
	faults faults
	reaper *reaper
	// delay is how long a creation takes at least: the real controller polls its
	// custom resource once a second, and that second is what callers must hide.
	delay time.Duration

	pending pending
}

func (c *controller) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	begin := time.Now()
	id := strings.ToLower(req.GetName())
	if id == "" {
		return nil, status.Error(codes.InvalidArgument, "failed to handle create volume request, missing volume name")
	}
	for _, capability := range req.GetVolumeCapabilities() {
		if capability.GetBlock() != nil {
			return nil, status.Error(codes.InvalidArgument, "zfs-fuse has no block volumes")
		}
	}
	if !c.pending.begin(id) {
		return nil, status.Errorf(codes.Aborted, "volume %s request already pending", id)
	}
	defer c.pending.end(id)

	params := lowerKeys(req.GetParameters())
	size := roundSize(req.GetCapacityRange().GetRequiredBytes())

	var v volume
	var err error
	switch source := req.GetVolumeContentSource(); {
	case source == nil:
		v, err = c.create(id, size, params, preferredNodes(req.GetAccessibilityRequirements(), zfsTopology))
	case source.GetVolume() != nil:
		v, err = c.clone(ctx, id, source.GetVolume().GetVolumeId(), size, params)
	case source.GetSnapshot() != nil:
		v, err = c.restore(ctx, id, source.GetSnapshot().GetSnapshotId(), size, params)
	default:
		err = status.Error(codes.InvalidArgument, "neither a volume nor a snapshot is named as source")
	}
	if err != nil {
		return nil, err
	}

	select {
	case <-time.After(time.Until(begin.Add(c.delay))):
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:      id,
		CapacityBytes: v.size,
		VolumeContext: map[string]string{"openebs.io/poolname": v.poolname()},
		ContentSource: req.GetVolumeContentSource(),
		AccessibleTopology: []*csi.Topology{
			{Segments: map[string]string{zfsTopology: v.node}},
		},
	}}, nil
}

func (c *controller) create(id string, size int64, params map[string]string, nodes []string) (volume, error) {
	c.zfs.mu.Lock()
	defer c.zfs.mu.Unlock()
	if v, err := c.existing(id, size); v != nil || err != nil {
		return deref(v), err
	}
	pool := params["poolname"]
	if pool != c.zfs.pool && !strings.HasPrefix(pool, c.zfs.pool+"/") {
		return volume{}, status.Errorf(codes.FailedPrecondition, "no pool matching %q is present on any node, volume %s", pool, id)
	}
	if params["fstype"] != "zfs" {
		return volume{}, status.Errorf(codes.InvalidArgument, "fstype %q: zfs-fuse has no block volumes, only fstype zfs", params["fstype"])
	}
	all, err := c.zfs.volumes()
	if err != nil {
		return volume{}, status.Error(codes.Internal, err.Error())
	}
	v := volume{
		dataset:     pool + "/" + id,
		size:        size,
		node:        leastProvisioned(nodes, c.node, all),
		quotaType:   params["quotatype"],
		recordsize:  params["recordsize"],
		compression: params["compression"],
		dedup:       params["dedup"],
		shared:      params["shared"] == "yes",
		reserve:     params["thinprovision"] == "no",
	}
	if v.quotaType == "" {
		v.quotaType = "quota"
	}
	if err := c.zfs.create(v); err != nil {
		return volume{}, status.Errorf(codes.Internal, "not able to provision the volume, nodes [%s], err : %s", v.node, err)
	}
	return v, nil
}

func (c *controller) clone(ctx context.Context, id, sourceID string, size int64, params map[string]string) (volume, error) {
	source, err := c.source(sourceID, size, params)
	if err != nil {
		return volume{}, err
	}
	return c.copied(ctx, source.cloned(id), params, c.zfs.clone)
}

// source is the volume that another is to be made from, if that may be.
func (c *controller) source(id string, size int64, params map[string]string) (volume, error) {
	source, err := c.zfs.find(id)
	if err != nil {
		return volume{}, status.Error(codes.Internal, err.Error())
	}
	if source == nil {
		return volume{}, status.Errorf(codes.NotFound, "zfsvolumes.zfs.openebs.io %q not found", id)
	}
	if pool := params["poolname"]; source.poolname() != pool {
		return volume{}, status.Errorf(codes.InvalidArgument, "clone: source pool %s is not covered by %s", source.poolname(), pool)
	}
	if source.size != size {
		return volume{}, status.Error(codes.Internal, "clone: volume size is not matching")
	}
	return *source, nil
}

// copied makes v by the given means.
func (c *controller) copied(ctx context.Context, v volume, params map[string]string, by func(volume) error) (volume, error) {
	// Outside of the lock: a clone that never finishes must not hold up others.
	if err := c.faults.inject(ctx, params[claimNameKey]); err != nil {
		return volume{}, err
	}

	c.zfs.mu.Lock()
	defer c.zfs.mu.Unlock()
	if v, err := c.existing(v.id(), v.size); v != nil || err != nil {
		return deref(v), err
	}
	if err := by(v); err != nil {
		return volume{}, status.Errorf(codes.Internal, "clone: not able to provision the volume err : %s", err)
	}
	return v, nil
}

// existing makes creation idempotent.
func (c *controller) existing(id string, size int64) (*volume, error) {
	v, err := c.zfs.find(id)
	switch {
	case err != nil:
		return nil, status.Error(codes.Internal, err.Error())
	case v == nil:
		return nil, nil
	case v.deleting:
		return nil, status.Errorf(codes.Aborted, "volume %s is being deleted", id)
	case v.size != size:
		return nil, status.Errorf(codes.AlreadyExists, "volume %s already present", id)
	}
	return v, nil
}

// DeleteVolume only marks the volume and returns, as zfs-localpv deletes its
// custom resource and returns: claim and PV vanish at once, also when clones keep
// the data set alive for long.
func (c *controller) DeleteVolume(_ context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	c.zfs.mu.Lock()
	defer c.zfs.mu.Unlock()
	v, err := c.zfs.find(strings.ToLower(req.GetVolumeId()))
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if v != nil && !v.deleting {
		if err := c.refuseWithSnapshots(*v); err != nil {
			return nil, err
		}
		if err := c.zfs.markDeleting(*v); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		slog.Info("delete", "volume", v.id())
	}
	c.reaper.wake()
	return &csi.DeleteVolumeResponse{}, nil
}

// GetCapacity is the pool's free space, whatever the class: a clone needs none
// of it, and yet the scheduler demands its full nominal size.
func (c *controller) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	free, err := c.zfs.free()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.GetCapacityResponse{AvailableCapacity: free}, nil
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return controllerCapabilities(
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
	), nil
}

// pending is the set of volumes that a request is at work on.
type pending struct{ names sync.Map }

func (p *pending) begin(id string) bool {
	_, busy := p.names.LoadOrStore(id, true)
	return !busy
}

func (p *pending) end(id string) { p.names.Delete(id) }

// lowerKeys exists because zfs-localpv takes a class's parameters in any case.
func lowerKeys(m map[string]string) map[string]string {
	lower := make(map[string]string, len(m))
	for k, v := range m {
		lower[strings.ToLower(k)] = v
	}
	return lower
}

func deref(v *volume) volume {
	if v == nil {
		return volume{}
	}
	return *v
}
