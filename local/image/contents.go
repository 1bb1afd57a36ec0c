package image

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// repository is what can be had under one name. Two registries may each have a
// repository of the same name: they are two repositories.
type repository struct {
	tags map[string]v1.Descriptor
	// manifests are its manifests by digest.
	manifests map[string]v1.Descriptor
	// blobs are the configurations and layers that its manifests refer to, by
	// digest.
	blobs map[string]bool
}

// contents are the repositories of a layout, by registry and name.
type contents map[string]map[string]*repository

// readContents reads the index of a layout and all manifests that it names.
func readContents(dir string) (contents, error) {
	raw, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, indexFile), err)
	}
	c := contents{}
	for _, d := range index.Manifests {
		full := d.Annotations[refNameAnnotation]
		registry, name, tag, err := splitName(full)
		if err != nil {
			return nil, fmt.Errorf("the layout in %s has an image named %q: %w", dir, full, err)
		}
		manifest, err := readManifest(dir, d)
		if err != nil {
			return nil, fmt.Errorf("reading the manifest of %s: %w", full, err)
		}
		if c[registry] == nil {
			c[registry] = map[string]*repository{}
		}
		r := c[registry][name]
		if r == nil {
			r = &repository{tags: map[string]v1.Descriptor{}, manifests: map[string]v1.Descriptor{}, blobs: map[string]bool{}}
			c[registry][name] = r
		}
		r.tags[tag] = d
		r.manifests[d.Digest.String()] = d
		r.blobs[manifest.Config.Digest.String()] = true
		for _, l := range manifest.Layers {
			r.blobs[l.Digest.String()] = true
		}
	}
	return c, nil
}

func readManifest(dir string, d v1.Descriptor) (*v1.Manifest, error) {
	f, err := os.Open(blobPath(dir, d.Digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return v1.ParseManifest(f)
}

// blobPath is where a blob is. The digest must have been checked: it becomes
// part of the path.
func blobPath(dir string, digest v1.Hash) string { return filepath.Join(blobFolder(dir), digest.Hex) }

// find returns the repository of that name. Containerd says which registry it
// takes us for; another client gets the only one that has the name.
func (c contents) find(registry, name string) *repository {
	if registry != "" {
		return c[registry][name]
	}
	var found *repository
	for _, repositories := range c {
		if r := repositories[name]; r != nil {
			if found != nil {
				return nil
			}
			found = r
		}
	}
	return found
}

// source is the contents of a layout that may be written anew at any time.
type source struct {
	dir string

	mu      sync.Mutex
	current contents
	index   os.FileInfo // of the index that current was read from
}

// openSource reads the layout in dir.
func openSource(dir string) (*source, error) {
	s := &source{dir: dir}
	if _, err := s.contents(); err != nil {
		return nil, err
	}
	return s, nil
}

// contents returns what the layout holds now. If a newer index cannot be read,
// it returns the last one that could, and the error.
func (s *source) contents() (contents, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, err := os.Stat(filepath.Join(s.dir, indexFile))
	if err != nil {
		return s.current, fmt.Errorf("looking for the index of the images: %w", err)
	}
	// The index is replaced, never written to; its inode may be used again.
	if s.index != nil && os.SameFile(now, s.index) && now.ModTime().Equal(s.index.ModTime()) && now.Size() == s.index.Size() {
		return s.current, nil
	}
	read, err := readContents(s.dir)
	if err != nil {
		return s.current, err
	}
	s.current, s.index = read, now
	return read, nil
}
