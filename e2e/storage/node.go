package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// node mounts a data set once, below staging, and binds that to every target.
// fsGroup is the kubelet's affair.
type node struct {
	csi.UnimplementedNodeServer

	zfs     *zfs
	mounts  mounter
	node    string
	staging string
	reaper  *reaper
}

func (n *node) NodePublishVolume(_ context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	target := req.GetTargetPath()
	if target == "" {
		return nil, status.Error(codes.InvalidArgument, "verifyMount: mount path missing in request")
	}
	n.zfs.mu.Lock()
	defer n.zfs.mu.Unlock()
	v, err := n.zfs.find(req.GetVolumeId())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if v == nil {
		return nil, status.Errorf(codes.NotFound, "zfsvolumes.zfs.openebs.io %q not found", req.GetVolumeId())
	}
	if v.node != n.node {
		return nil, status.Error(codes.Internal, "verifyMount: volume is owned by different node")
	}
	stage, targets, err := n.mountsOf(*v)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	for _, t := range targets {
		if t == target {
			return &csi.NodePublishVolumeResponse{}, nil
		}
	}
	if len(targets) > 0 && !v.shared {
		return nil, status.Errorf(codes.Internal, "verifyMount: device already mounted at %s", targets)
	}

	dir := n.stagingDir(*v)
	if !stage {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		if err := n.zfs.mount(*v, dir); err != nil {
			return nil, status.Errorf(codes.Internal, "zfs: mount failed err : %s", err)
		}
	}
	if err := bindTarget(n.mounts, dir, target, req.GetReadonly()); err != nil {
		return nil, status.Errorf(codes.Internal, "dataset: mount failed err : %s", err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (n *node) NodeUnpublishVolume(_ context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	n.zfs.mu.Lock()
	defer n.zfs.mu.Unlock()
	if err := unbindTarget(n.mounts, req.GetTargetPath()); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	v, err := n.zfs.find(req.GetVolumeId())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if v == nil {
		return &csi.NodeUnpublishVolumeResponse{}, nil
	}
	stage, targets, err := n.mountsOf(*v)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if stage && len(targets) == 0 {
		if err := n.zfs.unmount(*v); err != nil {
			// The target is free, which is all that the kubelet asks for.
			slog.Warn("staging mount stays", "volume", v.id(), "err", err)
		} else {
			_ = os.Remove(n.stagingDir(*v))
		}
	}
	if v.deleting {
		n.reaper.wake()
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (n *node) stagingDir(v volume) string { return filepath.Join(n.staging, v.id()) }

// mountsOf tells whether a data set is mounted for staging, and where else. The
// kubelet's binds of a volume's sub-directories count as well: they too hold
// the file system.
func (n *node) mountsOf(v volume) (stage bool, targets []string, err error) {
	all, err := n.mounts.list()
	for _, m := range all {
		switch {
		case m.source != v.dataset:
		case m.point == n.stagingDir(v):
			stage = true
		default:
			targets = append(targets, m.point)
		}
	}
	return stage, targets, err
}

func (n *node) NodeGetVolumeStats(_ context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	return volumeStats(req.GetVolumePath())
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return nodeCapabilities(csi.NodeServiceCapability_RPC_GET_VOLUME_STATS), nil
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId:             n.node,
		AccessibleTopology: &csi.Topology{Segments: map[string]string{zfsTopology: n.node}},
	}, nil
}
