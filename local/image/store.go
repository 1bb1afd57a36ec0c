package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// refNameAnnotation names an image in the index of a layout.
const refNameAnnotation = "org.opencontainers.image.ref.name"

const (
	indexFile  = "index.json"
	layoutFile = "oci-layout"
	// layoutContent is the only version of the layout that there is.
	layoutContent = `{"imageLayoutVersion":"1.0.0"}`
)

// layoutStore writes an OCI image layout. Whatever is under its final name is
// whole, whenever the writer was killed; go-containerregistry's own writer does
// not promise that.
type layoutStore struct {
	dir string
}

// blobFolder is where the blobs are. All digests here are sha256.
func blobFolder(dir string) string { return filepath.Join(dir, "blobs", "sha256") }

// writeImage writes the blobs of an image that are not there yet, and returns
// its descriptor and the digests of all its blobs.
func (s layoutStore) writeImage(img v1.Image) (v1.Descriptor, []v1.Hash, error) {
	manifest, err := img.Manifest()
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	digest, err := img.Digest()
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	blobs := []v1.Hash{digest, manifest.Config.Digest}
	for _, l := range manifest.Layers {
		blobs = append(blobs, l.Digest)
		content, err := img.LayerByDigest(l.Digest)
		if err != nil {
			return v1.Descriptor{}, nil, err
		}
		if err := s.writeBlob(l.Digest, l.Size, content.Compressed); err != nil {
			return v1.Descriptor{}, nil, err
		}
	}
	for _, blob := range []struct {
		digest  v1.Hash
		content []byte
	}{{manifest.Config.Digest, config}, {digest, raw}} {
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob.content)), nil }
		if err := s.writeBlob(blob.digest, int64(len(blob.content)), open); err != nil {
			return v1.Descriptor{}, nil, err
		}
	}
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: int64(len(raw)), Platform: platform()}, blobs, nil
}

// writeBlob writes a blob unless it is there.
func (s layoutStore) writeBlob(digest v1.Hash, size int64, open func() (io.ReadCloser, error)) error {
	path := filepath.Join(blobFolder(s.dir), digest.Hex)
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		return nil
	}
	content, err := open()
	if err != nil {
		return err
	}
	defer content.Close()
	return writeFile(path, func(f *os.File) error {
		actual, n, err := v1.SHA256(io.TeeReader(content, f))
		if err != nil {
			return err
		}
		if actual != digest || n != size {
			return errors.New("a program changed while its image was being written; build and assemble again")
		}
		return nil
	})
}

// writeIndex makes the manifests the layout's images.
func (s layoutStore) writeIndex(manifests []v1.Descriptor) error {
	index, err := json.MarshalIndent(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: manifests}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the index of the images: %w", err)
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{layoutFile, []byte(layoutContent)}, {indexFile, index}} {
		path := filepath.Join(s.dir, f.name)
		if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, f.content) {
			continue
		}
		if err := writeFile(path, func(out *os.File) error {
			_, err := out.Write(f.content)
			return err
		}); err != nil {
			return fmt.Errorf("writing the index of the images: %w", err)
		}
	}
	return nil
}

// removeOthers removes all blobs but those to keep, and what a killed Assemble
// left.
func (s layoutStore) removeOthers(keep map[v1.Hash]bool) error {
	files, err := os.ReadDir(blobFolder(s.dir))
	if err != nil {
		return fmt.Errorf("listing the blobs: %w", err)
	}
	for _, f := range files {
		if keep[v1.Hash{Algorithm: "sha256", Hex: f.Name()}] {
			continue
		}
		if err := os.Remove(filepath.Join(blobFolder(s.dir), f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing a blob that no image needs: %w", err)
		}
	}
	return nil
}

// writeFile replaces the file at path in one go with what fill writes.
func writeFile(path string, fill func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	// Without this, a power cut could leave an empty file under the final name.
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
