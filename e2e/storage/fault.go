package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// claimNameKey comes from the provisioner's --extra-create-metadata.
const claimNameKey = "csi.storage.k8s.io/pvc/name"

// faults makes clones fail. A test writes a file named after the claim (or
// "_any") into dir:
//
//	fail N   the next N attempts fail, then it works
//	hang     no attempt ever finishes, until the file is removed
type faults struct {
	dir string
	mu  *sync.Mutex
}

func newFaults(dir string) (faults, error) {
	return faults{dir: dir, mu: &sync.Mutex{}}, os.MkdirAll(dir, 0o755)
}

func (f faults) inject(ctx context.Context, claim string) error {
	for _, name := range []string{claim, "_any"} {
		if name == "" || name != filepath.Base(name) {
			continue
		}
		hang, err := f.take(filepath.Join(f.dir, name))
		if hang {
			slog.Info("injected fault: hang", "claim", claim)
			<-ctx.Done()
			return status.Errorf(codes.DeadlineExceeded, "clone: context deadline reached, claim %s", claim)
		}
		if err != nil {
			slog.Info("injected fault: fail", "claim", claim)
			return err
		}
	}
	return nil
}

// take reads one fault and counts it down.
func (f faults) take(file string) (hang bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, status.Error(codes.Internal, err.Error())
	}
	if strings.TrimSpace(string(text)) == "hang" {
		return true, nil
	}
	var left int
	if _, err := fmt.Sscanf(string(text), "fail %d", &left); err != nil {
		return false, status.Errorf(codes.Internal, "fault file %s is malformed: %q", file, text)
	}
	if left <= 0 {
		return false, nil
	}
	if err := os.WriteFile(file, fmt.Appendf(nil, "fail %d\n", left-1), 0o644); err != nil {
		return false, status.Error(codes.Internal, err.Error())
	}
	return false, status.Errorf(codes.Internal, "clone: not able to provision the volume err : injected fault, %d more", left-1)
}
