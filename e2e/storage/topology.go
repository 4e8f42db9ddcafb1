package main

import "github.com/container-storage-interface/spec/lib/go/csi"

// preferredNodes lists the nodes that a volume may be made on, the best one first.
func preferredNodes(req *csi.TopologyRequirement, key string) []string {
	var nodes []string
	for _, topology := range req.GetPreferred() {
		if node := topology.GetSegments()[key]; node != "" {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// leastProvisioned is zfs-localpv's CapacityWeighted scheduler, its default: of the nodes
// that will do, the one whose volumes have the smallest nominal sizes in sum.
func leastProvisioned(nodes []string, otherwise string, all []volume) string {
	if len(nodes) == 0 {
		return otherwise
	}
	provisioned := map[string]int64{}
	for _, v := range all {
		provisioned[v.node] += v.size
	}
	best := nodes[0]
	for _, node := range nodes {
		if provisioned[node] < provisioned[best] {
			best = node
		}
	}
	return best
}
