package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func request(id string, size int64, source string, params ...string) *csi.CreateVolumeRequest {
	req := &csi.CreateVolumeRequest{
		Name:          id,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		Parameters:    map[string]string{"poolname": "pool/toolchains", "fstype": "zfs", claimNameKey: "claim-" + id},
	}
	for i := 0; i < len(params); i += 2 {
		req.Parameters[params[i]] = params[i+1]
	}
	if source != "" {
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: source},
		}}
	}
	return req
}

func (b bed) mustCreate(t *testing.T, req *csi.CreateVolumeRequest) *csi.Volume {
	t.Helper()
	resp, err := b.CreateVolume(context.Background(), req)
	if err != nil {
		t.Fatalf("CreateVolume %s: %v", req.GetName(), err)
	}
	return resp.GetVolume()
}

func wantError(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("error %v, want %s with %q", err, code, text)
	}
}

func TestCreateReportsTheOwnerNodeAndRoundsTheSize(t *testing.T) {
	b := newBed(t)
	v := b.mustCreate(t, request("a", gi+1, ""))
	if v.GetCapacityBytes() != 2*gi {
		t.Errorf("capacity %d", v.GetCapacityBytes())
	}
	if got := v.GetAccessibleTopology()[0].GetSegments()["openebs.io/nodeid"]; got != "node-1" {
		t.Errorf("topology %q", got)
	}
	if got := v.GetVolumeContext()["openebs.io/poolname"]; got != "pool/toolchains" {
		t.Errorf("context %q", got)
	}
	if got := b.pool.datasets["pool/toolchains/a"]["quota"]; got != "2147483648" {
		t.Errorf("quota %q", got)
	}
}

func TestCreateIsIdempotentButNotForAnotherSize(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	b.mustCreate(t, request("a", gi, ""))
	_, err := b.CreateVolume(context.Background(), request("a", 2*gi, ""))
	wantError(t, err, codes.AlreadyExists, "volume a already present")
}

func TestCreateRefusesAnotherPoolAndOtherTypes(t *testing.T) {
	b := newBed(t)
	_, err := b.CreateVolume(context.Background(), request("a", gi, "", "poolname", "poolish"))
	wantError(t, err, codes.FailedPrecondition, "no pool matching")
	_, err = b.CreateVolume(context.Background(), request("a", gi, "", "fstype", "ext4"))
	wantError(t, err, codes.InvalidArgument, "only fstype zfs")
}

func TestParametersMayBeInAnyCase(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, "", "recordSize", "4K", "quotaType", "refquota", "thinProvision", "no"))
	got := b.pool.datasets["pool/toolchains/a"]
	if got["recordsize"] != "4K" || got["refquota"] != "1073741824" || got["refreservation"] != "1073741824" || got["quota"] != "" {
		t.Errorf("properties %v", got)
	}
}

func TestCloneNeedsTheEqualSizeAfterRounding(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", 1100*mi, ""))
	_, err := b.CreateVolume(context.Background(), request("b", 3*gi, "a"))
	wantError(t, err, codes.Internal, "clone: volume size is not matching")
	b.mustCreate(t, request("b", 2*gi, "a"))
}

func TestCloneNeedsTheSamePool(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	_, err := b.CreateVolume(context.Background(), request("b", gi, "a", "poolname", "pool"))
	wantError(t, err, codes.InvalidArgument, "clone: source pool pool/toolchains is not covered by pool")
	_, err = b.CreateVolume(context.Background(), request("b", gi, "missing"))
	wantError(t, err, codes.NotFound, "missing")
}

func TestCloneIgnoresItsOwnClass(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, "", "recordsize", "4K", "compression", "gzip", "shared", "yes", "quotatype", "refquota"))
	b.mustCreate(t, request("b", gi, "a", "recordsize", "128K", "compression", "off", "shared", "no"))
	got := b.pool.datasets["pool/toolchains/b"]
	if got["recordsize"] != "4K" || got["compression"] != "gzip" || got[propShared] != "yes" || got["refquota"] != "1073741824" {
		t.Errorf("properties %v", got)
	}
	if got["origin"] != "pool/toolchains/a@b" {
		t.Errorf("origin %q", got["origin"])
	}
}

func TestFailedCloneLeavesNoSnapshot(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	b.pool.broken = "clone"
	_, err := b.CreateVolume(context.Background(), request("b", gi, "a"))
	wantError(t, err, codes.Internal, "clone: not able to provision the volume err : ")
	if len(b.pool.snapshots) != 0 {
		t.Errorf("snapshots %v", b.pool.snapshots)
	}
}

func TestSnapshotOfAnInterruptedCloneIsUsed(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	b.pool.snapshots["pool/toolchains/a@b"] = false
	b.mustCreate(t, request("b", gi, "a"))
}

func TestCreationTakesTheDelay(t *testing.T) {
	b := newBed(t)
	b.delay = 50 * time.Millisecond
	begin := time.Now()
	b.mustCreate(t, request("a", gi, ""))
	if took := time.Since(begin); took < b.delay {
		t.Errorf("took %s", took)
	}
}

func TestDeletedParentGoesWithItsLastClone(t *testing.T) {
	b := newBed(t)
	ctx := t.Context()
	go b.controller.reaper.run(ctx)
	b.mustCreate(t, request("a", gi, ""))
	b.mustCreate(t, request("b", gi, "a"))
	b.mustCreate(t, request("c", gi, "b"))
	b.mustDelete(t, "a")
	b.mustDelete(t, "b")
	time.Sleep(30 * time.Millisecond)
	if n := b.count(); n != 3 {
		t.Fatalf("%d volumes while a clone lives, want 3", n)
	}
	b.mustDelete(t, "c")
	eventually(t, func() bool { return b.count() == 0 })
	if len(b.pool.snapshots) != 0 {
		t.Errorf("snapshots %v", b.pool.snapshots)
	}
}

// What is tried in vain takes its time too, and a line may be hundreds long.
func TestLineOfClonesGoesInOnePassWithoutVainAttempts(t *testing.T) {
	const length = 50
	b := newBed(t)
	source := ""
	for n := range length {
		name := fmt.Sprintf("v%02d", n)
		b.mustCreate(t, request(name, gi, source))
		source = name
	}
	for n := range length {
		b.mustDelete(t, fmt.Sprintf("v%02d", n))
	}
	left, destroyed := b.controller.reaper.pass()
	attempts := 0
	for _, command := range b.pool.commands {
		if strings.HasPrefix(command, "destroy -r ") {
			attempts++
		}
	}
	if left != 0 || !destroyed || attempts != length {
		t.Errorf("%d of %d volumes are left after %d attempts", left, length, attempts)
	}
}

func TestDeleteIsIdempotent(t *testing.T) {
	b := newBed(t)
	b.mustDelete(t, "never-there")
	b.mustCreate(t, request("a", gi, ""))
	b.mustDelete(t, "a")
	b.mustDelete(t, "a")
	_, err := b.CreateVolume(context.Background(), request("a", gi, ""))
	wantError(t, err, codes.Aborted, "being deleted")
}

// All that a driver knows is in the pool.
func TestNewDriverGoesOnWhereTheLastOneEnded(t *testing.T) {
	old := newBed(t)
	old.mustCreate(t, request("a", gi, "", "shared", "yes"))
	old.mustCreate(t, request("b", gi, ""))
	old.mustDelete(t, "b")

	b := newBed(t)
	b.pool.datasets, b.pool.snapshots = old.pool.datasets, old.pool.snapshots
	go b.controller.reaper.run(t.Context())
	eventually(t, func() bool { return b.count() == 1 })
	v, err := b.controller.zfs.find("a")
	if err != nil || v == nil || !v.shared || v.size != gi || v.node != "node-1" {
		t.Errorf("found %+v, %v", v, err)
	}
}

func TestFaultFailsAsOftenAsItSays(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	b.setFault(t, "claim-b", "fail 2")
	for range 2 {
		_, err := b.CreateVolume(context.Background(), request("b", gi, "a"))
		wantError(t, err, codes.Internal, "injected fault")
	}
	b.mustCreate(t, request("b", gi, "a"))
	b.mustCreate(t, request("c", gi, "a")) // others were never concerned
}

func TestFaultHangsUntilItIsRemoved(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, request("a", gi, ""))
	b.setFault(t, "_any", "hang")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := b.CreateVolume(ctx, request("b", gi, "a"))
	wantError(t, err, codes.DeadlineExceeded, "claim-b")
	if err := os.Remove(filepath.Join(b.faults.dir, "_any")); err != nil {
		t.Fatal(err)
	}
	b.mustCreate(t, request("b", gi, "a"))
}

func TestSecondRequestForOneVolumeIsTurnedAway(t *testing.T) {
	b := newBed(t)
	b.delay = 100 * time.Millisecond
	done := make(chan error)
	go func() {
		_, err := b.CreateVolume(context.Background(), request("a", gi, ""))
		done <- err
	}()
	eventually(t, func() bool { return b.count() == 1 })
	_, err := b.CreateVolume(context.Background(), request("a", gi, ""))
	wantError(t, err, codes.Aborted, "request already pending")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func (b bed) mustDelete(t *testing.T, id string) {
	t.Helper()
	if _, err := b.DeleteVolume(context.Background(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Fatalf("DeleteVolume %s: %v", id, err)
	}
}

func (b bed) setFault(t *testing.T, claim, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.faults.dir, claim), []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b bed) count() int {
	all, err := b.controller.zfs.volumes()
	if err != nil {
		panic(err)
	}
	return len(all)
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	for range 400 {
		if condition() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("not so within two seconds")
}
