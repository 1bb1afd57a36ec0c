// Package image assembles the container images of the embedded super cluster
// from built programs, reproducibly and without a container engine, and serves
// them to the nodes.
package image

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/bulkhead-dev/bulkhead/local/artifact"
)

// Ref is one image of the layout.
type Ref struct {
	Name   string // full name with tag, e.g. "docker.io/library/busybox:1.37"
	Digest string // digest of its manifest, e.g. "sha256:..."
}

// Assemble writes or updates the OCI layout in dir from the programs and
// returns its images sorted by name. Same programs, same digests.
func Assemble(ctx context.Context, p artifact.Programs, dir string) ([]Ref, error) {
	return nil, errors.New("image.Assemble: not written yet")
}

// Serve serves the OCI layout in dir as a read-only OCI distribution registry
// on addr until ctx ends. It speaks TLS 1.2 or newer with tlsConfig's
// certificate, and requires of each client a certificate that tlsConfig.ClientCAs
// verifies. It reads index.json at start and again whenever that file changes.
func Serve(ctx context.Context, dir, addr string, tlsConfig *tls.Config) error {
	return errors.New("image.Serve: not written yet")
}
