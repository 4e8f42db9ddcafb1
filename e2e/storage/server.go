package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// driver is what is served under one driver name.
type driver struct {
	name       string
	controller csi.ControllerServer
	node       csi.NodeServer
}

// serve opens the driver's socket and then the one that the kubelet watches for;
// it returns when both listen.
func (d driver) serve(kubeletRoot string, failed chan<- error) error {
	endpoint := filepath.Join(kubeletRoot, "plugins", d.name, "csi.sock")
	plugin := grpc.NewServer(grpc.UnaryInterceptor(logged))
	csi.RegisterIdentityServer(plugin, identity{name: d.name})
	csi.RegisterControllerServer(plugin, d.controller)
	csi.RegisterNodeServer(plugin, d.node)
	if err := listen(plugin, endpoint, failed); err != nil {
		return err
	}
	registry := grpc.NewServer()
	registration.RegisterRegistrationServer(registry, registrar{driver: d.name, endpoint: endpoint})
	return listen(registry, filepath.Join(kubeletRoot, "plugins_registry", d.name+"-reg.sock"), failed)
}

func listen(server *grpc.Server, socket string, failed chan<- error) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return err
	}
	// A driver that was killed leaves its socket.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() { failed <- server.Serve(listener) }()
	return nil
}

// logged writes one line per call that matters.
func logged(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	begin := time.Now()
	resp, err := handle(ctx, req)
	attrs := []any{"method", info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]}
	for _, field := range describe(req) {
		attrs = append(attrs, field)
	}
	attrs = append(attrs, slog.String("took", time.Since(begin).Round(time.Millisecond).String()))
	switch {
	case err != nil:
		slog.Error("call", append(attrs, "code", status.Code(err).String(), "err", err)...)
	case quiet(req):
		slog.Debug("call", attrs...)
	default:
		slog.Info("call", attrs...)
	}
	return resp, err
}

func quiet(req any) bool {
	switch req.(type) {
	case *csi.CreateVolumeRequest, *csi.DeleteVolumeRequest, *csi.CreateSnapshotRequest, *csi.DeleteSnapshotRequest,
		*csi.NodePublishVolumeRequest, *csi.NodeUnpublishVolumeRequest:
		return false
	}
	return true
}

func describe(req any) []slog.Attr {
	var attrs []slog.Attr
	if r, ok := req.(*csi.CreateVolumeRequest); ok {
		attrs = append(attrs, slog.String("volume", r.GetName()),
			slog.String("claim", r.GetParameters()[claimNameKey]),
			slog.Int64("size", r.GetCapacityRange().GetRequiredBytes()),
			slog.String("source", r.GetVolumeContentSource().GetVolume().GetVolumeId()+
				r.GetVolumeContentSource().GetSnapshot().GetSnapshotId()))
	}
	if r, ok := req.(*csi.CreateSnapshotRequest); ok {
		attrs = append(attrs, slog.String("snapshot", r.GetName()), slog.String("source", r.GetSourceVolumeId()))
	}
	if r, ok := req.(*csi.DeleteSnapshotRequest); ok {
		attrs = append(attrs, slog.String("snapshot", r.GetSnapshotId()))
	}
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		attrs = append(attrs, slog.String("volume", r.GetVolumeId()))
	}
	if r, ok := req.(interface{ GetTargetPath() string }); ok {
		attrs = append(attrs, slog.String("target", r.GetTargetPath()))
	}
	return attrs
}
