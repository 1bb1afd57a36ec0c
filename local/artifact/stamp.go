package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// isFresh says whether the program is there and was built from what the table,
// the toolchain and the work tree say now.
func (b *builder) isFresh(p program) (bool, error) {
	want, err := b.stamp(p)
	if err != nil {
		return false, err
	}
	stamp, err := os.ReadFile(filepath.Join(b.stamps(), p.name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the stamp of %s: %w", p.name, err)
	}
	info, err := os.Stat(b.path(p))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for %s: %w", p.name, err)
	}
	return string(stamp) == stampText(want, info.Size()), nil
}

// path is where the program goes.
func (b *builder) path(p program) string { return filepath.Join(b.bin, p.dir, p.name) }

// stamp returns a digest over everything that decides how the program comes out.
func (b *builder) stamp(p program) (string, error) {
	inputs, err := p.from.inputs(b.root)
	if err != nil {
		return "", fmt.Errorf("reading what %s is built from: %w", p.name, err)
	}
	h := sha256.New()
	for _, s := range append([]string{p.name, b.tools.identity}, inputs...) {
		// The length keeps neighbours apart.
		fmt.Fprintf(h, "%d:%s\n", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// stampText is a stamp as it is stored. The size is for the machine that lost
// power before the program was on disk.
func stampText(digest string, size int64) string { return fmt.Sprintf("%s %d\n", digest, size) }

// install moves a finished program from the scratch folder into place and
// stamps it. A program that is running keeps the file it was started from.
func (b *builder) install(p program, built string) error {
	digest, err := b.stamp(p)
	if err != nil {
		return err
	}
	info, err := os.Stat(built)
	if err != nil {
		return fmt.Errorf("looking for the built %s: %w", p.name, err)
	}
	stamp := filepath.Join(b.stamps(), p.name)
	if err := os.Remove(stamp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the old stamp of %s: %w", p.name, err)
	}
	if err := os.Chmod(built, 0o755); err != nil {
		return fmt.Errorf("making %s executable: %w", p.name, err)
	}
	if err := os.Rename(built, b.path(p)); err != nil {
		return fmt.Errorf("moving %s into place: %w", p.name, err)
	}
	if err := os.WriteFile(stamp, []byte(stampText(digest, info.Size())), 0o644); err != nil {
		return fmt.Errorf("stamping %s: %w", p.name, err)
	}
	return nil
}

// digestFiles returns name and digest of each file below root that matches one
// of the patterns.
func digestFiles(root string, patterns ...string) ([]string, error) {
	var digests []string
	for _, pattern := range patterns {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		if len(paths) == 0 {
			return nil, fmt.Errorf("no file matches %s in %s", pattern, root)
		}
		for _, path := range paths {
			digest, err := digestFile(path)
			if err != nil {
				return nil, err
			}
			digests = append(digests, strings.TrimPrefix(path, root)+" "+digest)
		}
	}
	return digests, nil
}

func digestFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
