package userconfig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// lockTimeout bounds the wait for another program that changes the same file.
const lockTimeout = 10 * time.Second

// lockPoll is how often the lock is tried. Nothing tells when a lock file goes.
const lockPoll = 50 * time.Millisecond

// change replaces a file by what edit makes of its content (none if there is no such
// file), while no other program that keeps to kubectl's lock changes it.
func change(ctx context.Context, file string, edit func(old []byte) ([]byte, error)) (err error) {
	target, err := resolve(file)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return fmt.Errorf("making the folder of %s: %w", file, err)
	}
	unlock, err := lock(ctx, file) // the name that kubectl would lock, link or not
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	old, err := os.ReadFile(target)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading the kubeconfig to merge into: %w", err)
	}
	data, err := edit(old)
	if err != nil {
		return err
	}
	return WriteFile(target, data)
}

// resolve follows symbolic links, so that a link stays one and its target changes.
func resolve(file string) (string, error) {
	target, err := filepath.EvalSymlinks(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, linkErr := os.Lstat(file); linkErr == nil {
			return "", fmt.Errorf("%s is a symbolic link to nowhere", file)
		}
		return file, nil
	case err != nil:
		return "", fmt.Errorf("following %s: %w", file, err)
	}
	return target, nil
}

// lock takes the lock that kubectl takes when it changes a kubeconfig (client-go's
// tools/clientcmd): the file's name with ".lock", which exists while it is held.
func lock(ctx context.Context, file string) (unlock func() error, err error) {
	name := file + ".lock"
	for deadline := time.Now().Add(lockTimeout); ; {
		handle, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0)
		switch {
		case err == nil:
			return func() error { return os.Remove(name) }, handle.Close()
		case !errors.Is(err, os.ErrExist):
			return nil, fmt.Errorf("locking %s: %w", file, err)
		case time.Now().After(deadline):
			return nil, fmt.Errorf("another program has been changing %s for %s: if none is, one died there; remove %s", file, lockTimeout, name)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another program to finish with %s: %w", file, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// WriteFile replaces a file at once: a reader, or a crash, sees the old content or
// the new one. A new file is for its owner only; an old one keeps its mode.
func WriteFile(file string, data []byte) error {
	mode := os.FileMode(0o600)
	if info, err := os.Stat(file); err == nil {
		mode = info.Mode().Perm()
	}
	temporary, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	defer os.Remove(temporary.Name()) // fails once it has been renamed
	_, err = temporary.Write(data)
	err = errors.Join(err, temporary.Chmod(mode), temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}
