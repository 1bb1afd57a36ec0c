// Package host is about the machine that the embedded super cluster runs on: what
// it must offer, and what is changed on it and put back.
package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bulkhead-dev/bulkhead/local/process"
)

// Sysctls changes kernel settings and remembers what they were.
type Sysctls struct {
	// File keeps the former values; it exists while there is something to restore.
	File string
	// Dir is /proc/sys; tests have another.
	Dir string
}

type record struct {
	Boot   string            `json:"boot"`
	Values map[string]string `json:"values"`
}

// parseRecord reads a record; one of another boot is empty, for the kernel has
// forgotten what was changed then.
func parseRecord(data []byte, boot string) (record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, err
	}
	for name := range r.Values {
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return record{}, fmt.Errorf("%q is no kernel setting", name)
		}
	}
	if r.Boot != boot || r.Values == nil {
		r = record{Boot: boot, Values: map[string]string{}}
	}
	return r, nil
}

func (s Sysctls) load() (record, error) {
	self, err := process.Identify(os.Getpid())
	if err != nil {
		return record{}, err
	}
	data, err := os.ReadFile(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		return record{Boot: self.Boot, Values: map[string]string{}}, nil
	}
	if err != nil {
		return record{}, err
	}
	r, err := parseRecord(data, self.Boot)
	if err != nil {
		return record{}, fmt.Errorf("%s: %w", s.File, err)
	}
	return r, nil
}

// Remember records the present values of the named settings (paths below
// /proc/sys), unless they are recorded already, for others to change them.
func (s Sysctls) Remember(names ...string) error {
	r, err := s.load()
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := r.Values[name]; ok {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not every kernel has every setting
		}
		if err != nil {
			return err
		}
		r.Values[name] = strings.TrimSpace(string(data))
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return process.WriteFile(s.File, append(data, '\n'), 0o600)
}

// Set remembers the setting and changes it.
func (s Sysctls) Set(name, value string) error {
	if err := s.Remember(name); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(value), 0); err != nil {
		return fmt.Errorf("setting kernel parameter %s to %s: %w", name, value, err)
	}
	return nil
}

// Restore puts everything back that was remembered in this boot.
func (s Sysctls) Restore() error {
	r, err := s.load()
	if err != nil {
		return err
	}
	var errs []error
	for name, value := range r.Values {
		err := os.WriteFile(filepath.Join(s.Dir, name), []byte(value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("restoring kernel parameter %s to %s: %w", name, value, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(s.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Raise is Set for a number that must be at least minimum; a higher one stays. A
// setting that this kernel does not have is left out.
func (s Sysctls) Raise(name string, minimum int) error {
	data, err := os.ReadFile(filepath.Join(s.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("kernel parameter %s: %w", name, err)
	}
	if have >= minimum {
		return nil
	}
	return s.Set(name, strconv.Itoa(minimum))
}
