package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of the kernel's mount table.
type mount struct {
	device string // major:minor, the same for all mounts of one file system
	root   string // what of the file system is mounted
	point  string
	fstype string
	source string
}

// mounter is what the drivers do to the mount table, and what their tests fake.
type mounter interface {
	list() ([]mount, error)
	bind(source, target string, readonly bool) error
	unmount(target string) error
}

type kernelMounter struct{}

func (kernelMounter) list() ([]mount, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var all []mount
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		m, err := parseMount(lines.Text())
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, lines.Err()
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// parseMount reads a line of proc_pid_mountinfo(5).
func parseMount(line string) (mount, error) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 6 || len(r) < 2 {
		return mount{}, fmt.Errorf("mount table has the line %q", line)
	}
	return mount{
		device: l[2], root: unescape.Replace(l[3]), point: unescape.Replace(l[4]),
		fstype: r[0], source: unescape.Replace(r[1]),
	}, nil
}

func (kernelMounter) bind(source, target string, readonly bool) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	if !readonly {
		return nil
	}
	// The kernel takes the flag on a second call only.
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(fmt.Errorf("make %s read-only: %w", target, err), unix.Unmount(target, 0))
	}
	return nil
}

func (kernelMounter) unmount(target string) error {
	if err := unix.Unmount(target, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// at returns the topmost mount at a path.
func at(all []mount, point string) *mount {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].point == point {
			return &all[i]
		}
	}
	return nil
}
