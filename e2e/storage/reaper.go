package main

import (
	"context"
	"log/slog"
	"time"
)

// reaper destroys the volumes that DeleteVolume has marked, for as long as it
// takes: a volume with clones cannot go before the last of them.
type reaper struct {
	zfs     *zfs
	kick    chan struct{}
	longest time.Duration // between two attempts
}

const firstRetry = 100 * time.Millisecond

func newReaper(z *zfs, longest time.Duration) *reaper {
	return &reaper{zfs: z, kick: make(chan struct{}, 1), longest: longest}
}

// wake has the next attempt made at once.
func (r *reaper) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *reaper) run(ctx context.Context) {
	wait := time.Duration(0) // what an earlier driver has left
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.kick:
			wait = 0
		case <-time.After(wait):
		}
		left, destroyed := r.pass()
		switch {
		case left == 0:
			wait = time.Hour // nothing to do before the next DeleteVolume
		case destroyed || wait == 0:
			wait = firstRetry
		default:
			wait = min(2*wait, r.longest)
		}
	}
}

// pass tries every marked volume once. Clones come first, so that one pass
// takes a whole family.
func (r *reaper) pass() (left int, destroyed bool) {
	r.zfs.mu.Lock()
	defer r.zfs.mu.Unlock()
	all, err := r.zfs.volumes()
	if err != nil {
		slog.Error("reaper", "err", err)
		return 1, false
	}
	for again := true; again; {
		again, left = false, 0
		var rest []volume
		for _, v := range all {
			if !v.deleting {
				continue
			}
			if err := r.zfs.destroy(v); err != nil {
				slog.Info("destroy later", "volume", v.id(), "err", err)
				rest, left = append(rest, v), left+1
				continue
			}
			slog.Info("destroyed", "volume", v.id())
			again, destroyed = true, true
		}
		all = rest
		again = again && left > 0
	}
	return left, destroyed
}
