package process

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// openLog opens a log for appending. Each write of an O_APPEND file goes to its
// present end, so that rotate can cut it while programs write.
func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// rotate keeps a log bounded: once it has more than limit bytes they go to
// path.1, replacing what was there, and path is begun anew. The programs write to
// path directly rather than through their supervisor, so that they outlive a
// killed supervisor; what they write between copy and cut is lost.
func rotate(path string, limit int64) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size() <= limit {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	old := path + ".1"
	out, err := os.OpenFile(old, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// A log that ran away while nobody rotated is not kept whole.
	if over := info.Size() - 2*limit; over > 0 {
		if _, err := in.Seek(over, io.SeekStart); err != nil {
			return errors.Join(err, out.Close())
		}
	}
	_, err = io.Copy(out, io.LimitReader(in, 2*limit))
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("rotating %s: %w", path, err)
	}
	return os.Truncate(path, 0)
}
