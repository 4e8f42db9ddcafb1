package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	localDriver   = "local-path.csi.arc-hook.dev"
	localTopology = "local-path.csi.arc-hook.dev/node"
)

// localPath stands in for rancher's local-path provisioner: a directory on the
// node, root's with mode 0777, that several pods of the node may mount.
//
// Unlike there a volume cannot grow beyond its size, because "the work volume is
// full" must be testable. Each volume is therefore an ext4 file system in a sparse
// file behind a loop device: made in 10 ms, files and locks behave as on a
// node's disk, and df tells the truth. A directory has no limit without
// project quotas on the host, tmpfs would take memory, zfs-fuse is ten times
// slower than what real work volumes lie on.
type localPath struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	run    command
	mounts mounter
	node   string
	dir    string

	mu sync.Mutex
}

func (l *localPath) image(id string) string { return filepath.Join(l.dir, id+".img") }
func (l *localPath) point(id string) string { return filepath.Join(l.dir, id) }

func (l *localPath) CreateVolume(_ context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	id, err := localID(req.GetName())
	if err != nil {
		return nil, err
	}
	if req.GetVolumeContentSource() != nil {
		return nil, status.Error(codes.InvalidArgument, "local-path volumes have no data source")
	}
	size := roundSize(max(req.GetCapacityRange().GetRequiredBytes(), mi))
	l.mu.Lock()
	defer l.mu.Unlock()
	if info, err := os.Stat(l.image(id)); err == nil && info.Size() != size {
		return nil, status.Errorf(codes.AlreadyExists, "volume %s has another size", id)
	} else if err != nil {
		if err := l.format(l.image(id), size); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	node := l.node
	// The class binds late, so the scheduler has chosen.
	if nodes := preferredNodes(req.GetAccessibilityRequirements(), localTopology); len(nodes) > 0 {
		node = nodes[0]
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:           id,
		CapacityBytes:      size,
		AccessibleTopology: []*csi.Topology{{Segments: map[string]string{localTopology: node}}},
	}}, nil
}

// format makes the image under another name first, so that an image is whole.
func (l *localPath) format(image string, size int64) error {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return err
	}
	fresh := image + ".new"
	if err := os.WriteFile(fresh, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(fresh, size); err != nil {
		return err
	}
	// No journal and no reserve: nothing here outlives a crash of the node, and
	// a full volume is to be full for root too. Inodes for a hundred thousand
	// small files per Gi.
	if _, err := l.run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-i", "8192",
		"-E", "lazy_itable_init=1,nodiscard", fresh); err != nil {
		return err
	}
	return os.Rename(fresh, image)
}

func (l *localPath) DeleteVolume(_ context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id, err := localID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Unmounting frees the loop device as well.
	if err := unbindTarget(l.mounts, l.point(id)); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if err := os.Remove(l.image(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, status.Error(codes.Internal, err.Error())
	}
	slog.Info("destroyed", "volume", id)
	return &csi.DeleteVolumeResponse{}, nil
}

func (l *localPath) NodePublishVolume(_ context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	id, err := localID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := l.mounts.list()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if at(all, req.GetTargetPath()) != nil {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if at(all, l.point(id)) == nil {
		if err := l.open(id); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	if err := bindTarget(l.mounts, l.point(id), req.GetTargetPath(), req.GetReadonly()); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// open mounts the image; it stays so until the volume is deleted, for writing
// back a runner's work before every deletion would be a waste.
func (l *localPath) open(id string) error {
	point := l.point(id)
	if err := os.MkdirAll(point, 0o755); err != nil {
		return err
	}
	// With "loop" the device goes with the mount, also when nobody cleans up.
	if _, err := l.run("mount", "-t", "ext4", "-o", "loop,noatime,nobarrier,noinit_itable", l.image(id), point); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(point, "lost+found")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Chmod(point, 0o777)
}

func (l *localPath) NodeUnpublishVolume(_ context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := unbindTarget(l.mounts, req.GetTargetPath()); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (l *localPath) NodeGetVolumeStats(_ context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	return volumeStats(req.GetVolumePath())
}

func (l *localPath) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return controllerCapabilities(csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME), nil
}

func (l *localPath) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return nodeCapabilities(csi.NodeServiceCapability_RPC_GET_VOLUME_STATS), nil
}

func (l *localPath) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId:             l.node,
		AccessibleTopology: &csi.Topology{Segments: map[string]string{localTopology: l.node}},
	}, nil
}

// localID refuses what would be a path.
func localID(name string) (string, error) {
	if name == "" || strings.HasPrefix(name, ".") || name != filepath.Base(name) {
		return "", status.Error(codes.InvalidArgument, fmt.Sprintf("volume name %q", name))
	}
	return name, nil
}
