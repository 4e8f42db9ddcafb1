package main

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func (b bed) publish(id, target string) error {
	_, err := b.NodePublishVolume(context.Background(), &csi.NodePublishVolumeRequest{
		VolumeId: id, TargetPath: filepath.Join(b.dir, target),
	})
	return err
}

func (b bed) unpublish(t *testing.T, id, target string) {
	t.Helper()
	if _, err := b.NodeUnpublishVolume(context.Background(), &csi.NodeUnpublishVolumeRequest{
		VolumeId: id, TargetPath: filepath.Join(b.dir, target),
	}); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyOneTargetUnlessShared(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	if err := b.publish("a", "one"); err != nil {
		t.Fatal(err)
	}
	wantError(t, b.publish("a", "two"), codes.Internal, "verifyMount: device already mounted at ["+filepath.Join(b.dir, "one")+"]")

	b.mustCreate(t, request("s", gi, "", "shared", "yes"))
	b.mustCreate(t, request("c", gi, "s"))
	for _, target := range []string{"three", "four"} {
		if err := b.publish("c", target); err != nil {
			t.Error(err)
		}
	}
}

func TestPublishIsIdempotentForOneTarget(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	for range 2 {
		if err := b.publish("a", "one"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.pool.mounts.table); n != 2 {
		t.Errorf("%d mounts, want staging and target: %v", n, b.pool.mounts.table)
	}
}

func TestLastUnpublishUnmountsTheDataSet(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, "", "shared", "yes"))
	for _, target := range []string{"one", "two"} {
		if err := b.publish("a", target); err != nil {
			t.Fatal(err)
		}
	}
	b.unpublish(t, "a", "one")
	if at(b.pool.mounts.table, filepath.Join(b.staging, "a")) == nil {
		t.Error("unmounted under the second pod")
	}
	b.unpublish(t, "a", "two")
	b.unpublish(t, "a", "two")
	if len(b.pool.mounts.table) != 0 {
		t.Errorf("left: %v", b.pool.mounts.table)
	}
	if err := b.publish("a", "three"); err != nil {
		t.Error(err)
	}
}

func TestVolumeOfAnotherNodeIsRefused(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	b.node.node = "node-2"
	wantError(t, b.publish("a", "one"), codes.Internal, "volume is owned by different node")
	wantError(t, b.publish("missing", "one"), codes.NotFound, "missing")
}

func TestParseMount(t *testing.T) {
	got, err := parseMount(`42 27 0:39 /sub\040dir /a\040b rw,relatime shared:1 - fuse.zfs pool/x rw,user_id=0`)
	want := mount{device: "0:39", root: "/sub dir", point: "/a b", fstype: "fuse.zfs", source: "pool/x"}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := parseMount("42 27 0:39"); err == nil {
		t.Error("a cut line was read")
	}
}
