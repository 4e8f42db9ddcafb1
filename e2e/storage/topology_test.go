package main

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

func onNodes(req *csi.CreateVolumeRequest, nodes ...string) *csi.CreateVolumeRequest {
	req.AccessibilityRequirements = &csi.TopologyRequirement{}
	for _, node := range nodes {
		req.AccessibilityRequirements.Preferred = append(req.AccessibilityRequirements.Preferred,
			&csi.Topology{Segments: map[string]string{zfsTopology: node, localTopology: node}})
	}
	return req
}

func nodeOf(v *csi.Volume, key string) string { return v.GetAccessibleTopology()[0].GetSegments()[key] }

func TestVolumeIsMadeWhereTheSchedulerWantsIt(t *testing.T) {
	b := newBed(t)
	v := b.mustCreate(t, onNodes(request("a", gi, ""), "node-2"))
	if got := nodeOf(v, zfsTopology); got != "node-2" {
		t.Errorf("topology %q", got)
	}
	if got := b.pool.datasets["pool/toolchains/a"][propNode]; got != "node-2" {
		t.Errorf("property %q", got)
	}
}

func TestVolumeThatMayLieAnywhereGoesWhereLeastIsProvisioned(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, onNodes(request("a", 2*gi, ""), "node-1"))
	b.mustCreate(t, onNodes(request("b", gi, ""), "node-2"))
	for _, want := range []struct{ id, node string }{{"c", "node-2"}, {"d", "node-1"}} {
		v := b.mustCreate(t, onNodes(request(want.id, 2*gi, ""), "node-1", "node-2"))
		if got := nodeOf(v, zfsTopology); got != want.node {
			t.Errorf("%s is on %q, want %q", want.id, got, want.node)
		}
	}
}

// Whatever the scheduler wants: this is why a pod waits for ever when its node was
// chosen by another volume.
func TestCloneLiesOnTheNodeOfItsParent(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, onNodes(request("a", gi, ""), "node-2"))
	v := b.mustCreate(t, onNodes(request("b", gi, "a"), "node-1"))
	if got := nodeOf(v, zfsTopology); got != "node-2" {
		t.Errorf("topology %q", got)
	}
}

func TestNodeMountsNoVolumeOfAnother(t *testing.T) {
	b := newBed(t)
	b.mustCreate(t, onNodes(request("a", gi, ""), "node-2"))
	_, err := b.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{VolumeId: "a", TargetPath: b.dir + "/target"})
	wantError(t, err, 13, "owned by different node")
}
