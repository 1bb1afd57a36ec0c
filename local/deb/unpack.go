package deb

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// Unpack fetches a Debian package and unpacks its files below dir, which is
// made, without installing it. apt verifies it by the archive's signature. The
// output of apt and dpkg is appended to logFile, and errors are as Install's.
func Unpack(ctx context.Context, logFile, dir, pkg string) error {
	return machine().unpack(ctx, logFile, dir, pkg)
}

func (s system) unpack(ctx context.Context, logFile, dir, pkg string) error {
	if err := s.check(pkg); err != nil {
		return err
	}
	download := filepath.Join(dir, ".download")
	if err := os.MkdirAll(download, 0o755); err != nil {
		return fmt.Errorf("making a folder for package %s: %w", pkg, err)
	}
	defer os.RemoveAll(download)
	// apt-get download puts the package into its working directory.
	err := s.run(ctx, logFile, download, s.aptGet, "-q", "download", pkg)
	if err != nil && s.isRoot && ctx.Err() == nil {
		// No package lists yet, or old ones.
		if err = s.update(ctx, logFile); err == nil {
			err = s.run(ctx, logFile, download, s.aptGet, "-q", "download", pkg)
		}
	}
	if err != nil {
		return &progress.LogError{
			Err:  fmt.Errorf("fetching Debian package %s: %w", pkg, err),
			Log:  logFile,
			Hint: fmt.Sprintf("See to it that this works, then try again: apt-get update && apt-get download %s", pkg),
		}
	}
	files, err := filepath.Glob(filepath.Join(download, "*.deb"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages, want 1", pkg, len(files))
	}
	if err := s.run(ctx, logFile, "", s.dpkgDeb, "--extract", files[0], dir); err != nil {
		return &progress.LogError{Err: fmt.Errorf("unpacking Debian package %s: %w", pkg, err), Log: logFile}
	}
	return nil
}
