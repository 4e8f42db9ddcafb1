package main

import (
	"path"
	"strings"
)

const (
	mi = int64(1) << 20
	gi = int64(1) << 30
)

// volume is one data set of the pool, as its own properties describe it: there
// is no other record, so a driver that is started anew knows all that the last
// one knew.
type volume struct {
	dataset     string
	origin      string // the snapshot it was cloned from, or ""
	size        int64
	node        string
	quotaType   string // quota or refquota
	recordsize  string
	compression string
	dedup       string
	shared      bool
	reserve     bool
	deleting    bool
}

func (v volume) id() string { return path.Base(v.dataset) }

// parent is the data set that it was cloned from, or "".
func (v volume) parent() string {
	dataset, _, _ := strings.Cut(v.origin, "@")
	return dataset
}

// poolname is what a StorageClass calls the pool: the data set's parent, which
// may itself be a data set below the pool.
func (v volume) poolname() string { return path.Dir(v.dataset) }

// cloned describes a clone of v: it takes everything from its source, nothing
// from the class of its own claim.
func (v volume) cloned(id string) volume {
	c := v
	c.dataset = path.Join(v.poolname(), id)
	c.origin = v.dataset + "@" + id
	c.deleting = false
	return c
}

// roundSize is zfs-localpv's rounding: whole Gi above one Gi, else whole Mi.
func roundSize(size int64) int64 {
	unit := mi
	if size > gi {
		unit = gi
	}
	return (size + unit - 1) / unit * unit
}
