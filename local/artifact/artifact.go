// Package artifact builds the programs that the embedded super cluster runs,
// from Go modules pinned by version and checksum.
package artifact

import (
	"context"
	"errors"
)

// Programs says where the built programs are. All paths are absolute.
type Programs struct {
	Bin     string // folder with hyperkube, kubectl, containerd, containerd-shim-runc-v2, ctr, runc, helm, coredns, local-path-provisioner, metrics-server and our own programs
	CNI     string // folder with the CNI plugins bridge, host-local, loopback, portmap
	Pause   string // the static pause program
	Busybox string // the static busybox program
}

// Build makes every program that is missing or stale below root, the top of
// the work tree, and returns where they are. Logs go to logDir, one file per
// program. An error is a *progress.LogError where a log explains it.
func Build(ctx context.Context, root, logDir string, step func(format string, a ...any)) (Programs, error) {
	return Programs{}, errors.New("artifact.Build: not written yet")
}

// BuildOnly is Build for the named programs; a name that is not in the table
// is an error.
func BuildOnly(ctx context.Context, root, logDir string, step func(format string, a ...any), names ...string) (Programs, error) {
	return Programs{}, errors.New("artifact.BuildOnly: not written yet")
}
