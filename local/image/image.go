// Package image assembles the container images of the embedded super cluster
// from built programs, reproducibly and without a container engine, and serves
// them to the nodes.
//
// What the images hold is catalog.go. They are kept in an OCI image layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md),
// whose index names each image in full, and served from there by a read-only
// registry as the OCI distribution specification describes it
// (https://github.com/opencontainers/distribution-spec/blob/main/spec.md).
package image

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/bulkhead-dev/bulkhead/local/artifact"
)

// Ref is one image of the layout.
type Ref struct {
	Name   string // full name with tag, e.g. "docker.io/library/busybox:1.37"
	Digest string // digest of its manifest, e.g. "sha256:..."
}

// Version is the tag of our own images.
func Version() string { return "dev" }

// epoch is when everything in an image was made, so that the same programs give
// the same digests.
var epoch = time.Unix(0, 0).UTC()

// Assemble writes or updates the OCI layout in dir from the programs and
// returns its images sorted by name. Same programs, same digests. What earlier
// calls left and no image refers to any more is removed. Calls for the same dir
// must not overlap.
func Assemble(ctx context.Context, p artifact.Programs, dir string) ([]Ref, error) {
	specs, err := catalog(ctx, p)
	if err != nil {
		return nil, err
	}
	store := layoutStore{dir: dir}
	var index []v1.Descriptor
	var refs []Ref
	keep := map[v1.Hash]bool{}
	for _, spec := range specs {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("assembling images: %w", err)
		}
		img, err := spec.image()
		if err != nil {
			return nil, fmt.Errorf("assembling image %s: %w", spec.names[0], err)
		}
		manifest, blobs, err := store.writeImage(img)
		if err != nil {
			return nil, fmt.Errorf("writing image %s: %w", spec.names[0], err)
		}
		for _, blob := range blobs {
			keep[blob] = true
		}
		for _, name := range spec.names {
			manifest.Annotations = map[string]string{refNameAnnotation: name}
			index = append(index, manifest)
			refs = append(refs, Ref{Name: name, Digest: manifest.Digest.String()})
		}
	}
	slices.SortFunc(refs, func(a, b Ref) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(index, func(a, b v1.Descriptor) int {
		return strings.Compare(a.Annotations[refNameAnnotation], b.Annotations[refNameAnnotation])
	})
	if err := store.writeIndex(index); err != nil {
		return nil, err
	}
	if err := store.removeOthers(keep); err != nil {
		return nil, err
	}
	return refs, nil
}

// spec says what an image is made of.
type spec struct {
	names  []string // in full, with tags
	layers [][]entry
	config v1.Config
}

// image puts the image together in memory, except for its files, which are read
// where they lie.
func (s spec) image() (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Created:      v1.Time{Time: epoch},
		Config:       s.config,
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}},
	})
	if err != nil {
		return nil, err
	}
	for _, entries := range s.layers {
		l, err := newLayer(entries)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.Append(img, mutate.Addendum{
			Layer:     l,
			MediaType: types.OCIUncompressedLayer,
			History:   v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "bulkhead local"},
		}); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// platform is what all images run on: this machine.
func platform() *v1.Platform { return &v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }
