package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func newLocalPath(t *testing.T) (*localPath, *fakeMounts) {
	t.Helper()
	mounts := &fakeMounts{}
	run := func(name string, args ...string) (string, error) {
		if name == "mount" {
			mounts.table = append(mounts.table, mount{point: args[len(args)-1], source: "/dev/loop9"})
		}
		return "", nil
	}
	return &localPath{run: run, mounts: mounts, node: "node-1", dir: filepath.Join(t.TempDir(), "local-path")}, mounts
}

func TestLocalPathVolumeIsASparseImageThatSeveralPodsMount(t *testing.T) {
	l, mounts := newLocalPath(t)
	ctx := context.Background()
	req := &csi.CreateVolumeRequest{Name: "a", CapacityRange: &csi.CapacityRange{RequiredBytes: gi}}
	for range 2 {
		if _, err := l.CreateVolume(ctx, req); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(l.image("a")); err != nil || info.Size() != gi {
		t.Fatalf("image %v, %v", info, err)
	}
	targets := []string{filepath.Join(l.dir, "..", "one"), filepath.Join(l.dir, "..", "two")}
	for _, target := range append(targets, targets[0]) {
		if _, err := l.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: "a", TargetPath: target}); err != nil {
			t.Fatal(err)
		}
	}
	if len(mounts.table) != 3 {
		t.Errorf("mounts %v", mounts.table)
	}
	if info, err := os.Stat(l.point("a")); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("root of the volume: %v, %v", info, err)
	}
	for _, target := range targets {
		if _, err := l.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: "a", TargetPath: target}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := l.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(l.dir)
	if err != nil || len(left) != 0 || len(mounts.table) != 0 {
		t.Errorf("left: %v, %v, %v", left, mounts.table, err)
	}
}

func TestLocalPathRefusesNamesThatArePaths(t *testing.T) {
	l, _ := newLocalPath(t)
	for _, name := range []string{"", "..", "../x", "a/b", ".hidden"} {
		_, err := l.CreateVolume(context.Background(), &csi.CreateVolumeRequest{Name: name})
		wantError(t, err, codes.InvalidArgument, "volume name")
		_, err = l.DeleteVolume(context.Background(), &csi.DeleteVolumeRequest{VolumeId: name})
		wantError(t, err, codes.InvalidArgument, "volume name")
	}
}

func TestLocalPathHasNoDataSource(t *testing.T) {
	l, _ := newLocalPath(t)
	_, err := l.CreateVolume(context.Background(), request("a", gi, "b"))
	if err == nil || !strings.Contains(err.Error(), "no data source") {
		t.Errorf("error %v", err)
	}
}
