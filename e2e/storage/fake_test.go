package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakePool plays the zfs command with the rules that the driver depends on: a data
// set with clones cannot go, a clone needs its snapshot, properties are per
// data set, and mounting one puts a line into the mount table.
type fakePool struct {
	mu        sync.Mutex
	datasets  map[string]map[string]string
	snapshots map[string]bool // whether it is to go with its last clone
	mounts    *fakeMounts
	broken    string // the sub-command that fails
	commands  []string
}

func newFakePool() *fakePool {
	return &fakePool{
		datasets:  map[string]map[string]string{"pool": {}, "pool/toolchains": {}},
		snapshots: map[string]bool{},
		mounts:    &fakeMounts{},
	}
}

func (f *fakePool) run(name string, args ...string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.commands = append(f.commands, strings.Join(args, " "))
	if name != "zfs" {
		return "", fmt.Errorf("unexpected command %s", name)
	}
	if args[0] == f.broken {
		return "", errors.New("injected")
	}
	props, rest := splitOptions(args[1:])
	last := rest[len(rest)-1]
	switch args[0] {
	case "list":
		if slices.Contains(rest, "snapshot") {
			return f.listSnapshots(), nil
		}
		return f.list(), nil
	case "get":
		return "1073741824\n", nil
	case "create":
		return "", f.add(last, props)
	case "snapshot":
		if _, there := f.snapshots[last]; there {
			return "", errors.New("dataset already exists")
		}
		f.snapshots[last] = false
		return "", nil
	case "clone":
		props["origin"] = rest[0]
		if _, there := f.snapshots[rest[0]]; !there {
			return "", errors.New("dataset does not exist")
		}
		return "", f.add(last, props)
	case "set":
		key, value, _ := strings.Cut(rest[0], "=")
		f.datasets[last][key] = value
		if key == "mountpoint" {
			f.mounts.set(last, value)
		}
		return "", nil
	case "destroy":
		err := f.destroy(last)
		if _, there := f.snapshots[last]; there && err != nil && slices.Contains(rest, "-d") {
			f.snapshots[last] = true
			return "", nil
		}
		return "", err
	}
	return "", fmt.Errorf("unexpected zfs %s", args[0])
}

func splitOptions(args []string) (map[string]string, []string) {
	props := map[string]string{}
	var rest []string
	for i := 0; i < len(args); i++ {
		if args[i] == "-o" {
			i++
			key, value, _ := strings.Cut(args[i], "=")
			props[key] = value
			continue
		}
		rest = append(rest, args[i])
	}
	return props, rest
}

func (f *fakePool) add(dataset string, props map[string]string) error {
	if f.datasets[dataset] != nil {
		return errors.New("dataset already exists")
	}
	f.datasets[dataset] = props
	return nil
}

func (f *fakePool) destroy(target string) error {
	for name, props := range f.datasets {
		if props["origin"] == target || strings.HasPrefix(props["origin"], target+"@") {
			return fmt.Errorf("cannot destroy %q: filesystem has dependent clones: %s", target, name)
		}
	}
	origin := f.datasets[target]["origin"]
	delete(f.datasets, target)
	if f.snapshots[origin] {
		_ = f.destroy(origin)
	}
	maps.DeleteFunc(f.snapshots, func(s string, _ bool) bool { return s == target || strings.HasPrefix(s, target+"@") })
	return nil
}

func (f *fakePool) list() string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(f.datasets)) {
		fields := []string{name}
		for _, column := range columns[1:] {
			value := f.datasets[name][column]
			if value == "" {
				value = "-"
			}
			fields = append(fields, value)
		}
		out.WriteString(strings.Join(fields, "\t") + "\n")
	}
	return out.String()
}

func (f *fakePool) listSnapshots() string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(f.snapshots)) {
		deferred := "off"
		if f.snapshots[name] {
			deferred = "on"
		}
		out.WriteString(name + "\t" + deferred + "\n")
	}
	return out.String()
}

// fakeMounts is a mount table.
type fakeMounts struct {
	mu    sync.Mutex
	table []mount
}

func (f *fakeMounts) list() ([]mount, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.table), nil
}

func (f *fakeMounts) bind(source, target string, _ bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := at(f.table, source)
	if m == nil {
		return fmt.Errorf("%s is no mount", source)
	}
	f.table = append(f.table, mount{point: target, source: m.source})
	return nil
}

func (f *fakeMounts) unmount(target string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.table = slices.DeleteFunc(f.table, func(m mount) bool { return m.point == target })
	return nil
}

func (f *fakeMounts) set(dataset, point string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.table = slices.DeleteFunc(f.table, func(m mount) bool {
		return m.source == dataset && filepath.Base(filepath.Dir(m.point)) == "zfs"
	})
	if point != "legacy" {
		f.table = append(f.table, mount{point: point, source: dataset})
	}
}

// bed is both halves of the ZFS driver over the fakes.
type bed struct {
	*controller
	*node
	pool *fakePool
	dir  string
}

func newBed(t *testing.T) bed {
	t.Helper()
	dir := t.TempDir()
	pool := newFakePool()
	z := &zfs{run: pool.run, pool: "pool"}
	r := newReaper(z, 10*time.Millisecond)
	f, err := newFaults(filepath.Join(dir, "faults"))
	if err != nil {
		t.Fatal(err)
	}
	return bed{
		controller: &controller{zfs: z, node: "node-1", faults: f, reaper: r},
		node:       &node{zfs: z, mounts: pool.mounts, node: "node-1", staging: filepath.Join(dir, "zfs"), reaper: r},
		pool:       pool,
		dir:        dir,
	}
}
