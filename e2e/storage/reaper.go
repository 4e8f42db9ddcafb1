package main

import (
	"context"
	"log/slog"
	"slices"
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

// pass tries every marked volume that has no clones once, and then those whose last clone
// went: one pass takes a whole family, however long its line. Between two volumes others
// may change the pool.
func (r *reaper) pass() (left int, destroyed bool) {
	all, err := r.zfs.volumes()
	if err != nil {
		slog.Error("reaper", "err", err)
		return 1, false
	}
	clones := map[string]int{}
	for _, v := range all {
		clones[v.parent()]++
	}
	marked := slices.DeleteFunc(all, func(v volume) bool { return !v.deleting })
	left = len(marked)
	for again := true; again; {
		again = false
		marked = slices.DeleteFunc(marked, func(v volume) bool {
			if clones[v.dataset] > 0 {
				return false
			}
			if err := r.destroy(v); err != nil {
				slog.Info("destroy later", "volume", v.id(), "err", err)
				return true
			}
			slog.Info("destroyed", "volume", v.id())
			clones[v.parent()]--
			left--
			again, destroyed = true, true
			return true
		})
	}
	return left, destroyed
}

func (r *reaper) destroy(v volume) error {
	r.zfs.mu.Lock()
	defer r.zfs.mu.Unlock()
	return r.zfs.destroy(v)
}
