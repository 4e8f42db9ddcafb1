package main

import (
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func (b bed) mustSnapshot(t *testing.T, name, source string) *csi.Snapshot {
	t.Helper()
	resp, err := b.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
	if err != nil {
		t.Fatalf("CreateSnapshot %s: %v", name, err)
	}
	return resp.GetSnapshot()
}

func fromSnapshot(id string, size int64, snapshot string) *csi.CreateVolumeRequest {
	req := request(id, size, "")
	req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
	}}
	return req
}

func (b bed) deleteSnapshot(t *testing.T, id string) {
	t.Helper()
	if _, err := b.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id}); err != nil {
		t.Fatalf("DeleteSnapshot %s: %v", id, err)
	}
}

func TestSnapshotIsReadyAtOnceAndKnowsWhatARestoreNeeds(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	for range 2 { // the second time it is there
		s := b.mustSnapshot(t, "snapshot-1", "a")
		if s.GetSnapshotId() != "a@snapshot-1" || s.GetSourceVolumeId() != "a" || s.GetSizeBytes() != gi || !s.GetReadyToUse() {
			t.Errorf("snapshot %v", s)
		}
		if got := s.GetCreationTime().AsTime(); !got.Equal(time.Unix(gi, 0)) {
			t.Errorf("creation %s", got)
		}
	}
	if len(b.pool.snapshots) != 1 {
		t.Errorf("snapshots %v", b.pool.snapshots)
	}
}

func TestSnapshotNeedsAVolumeAndANameOfItsOwn(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	b.mustCreate(t, request("b", gi, ""))
	b.mustSnapshot(t, "snapshot-1", "a")
	_, err := b.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "snapshot-1", SourceVolumeId: "b"})
	wantError(t, err, codes.AlreadyExists, "one of another volume")
	_, err = b.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "snapshot-2", SourceVolumeId: "c"})
	wantError(t, err, codes.NotFound, "\"c\" not found")
	// It would be taken for the snapshot of a clone.
	_, err = b.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "pvc-1", SourceVolumeId: "a"})
	wantError(t, err, codes.InvalidArgument, "pvc-1")
}

func TestRestoreIsACloneOfTheSnapshot(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, onNodes(request("a", gi, "", "recordsize", "4K"), "node-2"))
	b.mustSnapshot(t, "snapshot-1", "a")
	_, err := b.CreateVolume(t.Context(), fromSnapshot("b", 2*gi, "a@snapshot-1"))
	wantError(t, err, codes.Internal, "clone: volume size is not matching")
	_, err = b.CreateVolume(t.Context(), fromSnapshot("b", gi, "a@snapshot-2"))
	wantError(t, err, codes.Internal, "does not exist")
	v := b.mustCreate(t, fromSnapshot("b", gi, "a@snapshot-1"))
	if got := nodeOf(v, zfsTopology); got != "node-2" {
		t.Errorf("topology %q", got)
	}
	got := b.pool.datasets["pool/toolchains/b"]
	if got["origin"] != "pool/toolchains/a@snapshot-1" || got["recordsize"] != "4K" {
		t.Errorf("properties %v", got)
	}
}

// A clone takes the snapshot along that was taken for it; this one was not.
func TestSnapshotOutlivesWhatWasRestoredFromIt(t *testing.T) {
	b := newBed(t)
	go b.controller.reaper.run(t.Context())
	b.mustCreate(t, request("a", gi, ""))
	b.mustSnapshot(t, "snapshot-1", "a")
	b.mustCreate(t, fromSnapshot("b", gi, "a@snapshot-1"))
	b.mustDelete(t, "b")
	eventually(t, func() bool { return b.count() == 1 })
	b.mustCreate(t, fromSnapshot("c", gi, "a@snapshot-1"))
}

func TestSnapshotThatIsInUseGoesWithItsLastClone(t *testing.T) {
	b := newBed(t)
	go b.controller.reaper.run(t.Context())
	b.mustCreate(t, request("a", gi, ""))
	b.mustSnapshot(t, "snapshot-1", "a")
	b.mustCreate(t, fromSnapshot("b", gi, "a@snapshot-1"))
	_, err := b.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "a"})
	wantError(t, err, codes.FailedPrecondition, "volume a has the snapshot")
	for range 2 {
		b.deleteSnapshot(t, "a@snapshot-1")
	}
	b.mustDelete(t, "a")
	b.mustDelete(t, "b")
	eventually(t, func() bool { return b.count() == 0 })
	if len(b.pool.snapshots) != 0 {
		t.Errorf("snapshots %v", b.pool.snapshots)
	}
	_, err = b.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: "a"})
	wantError(t, err, codes.InvalidArgument, "VOLUME@SNAPSHOT")
}
