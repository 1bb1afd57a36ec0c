package process

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Service is a program to keep running.
type Service struct {
	// Name is unique among the services and fit for a file name.
	Name string `json:"name"`
	// Command is the program's absolute path and its arguments.
	Command []string `json:"command"`
	// Env is the program's whole environment.
	Env []string `json:"env,omitempty"`
	// Inputs are files that the program reads only when it starts, its own binary
	// among them: a change of their content makes Ensure restart it.
	Inputs []string `json:"inputs,omitempty"`
	// Cgroup is where the program runs, relative to the hierarchies' mount points.
	// Whatever else is in it when the program is to start is killed before.
	Cgroup string `json:"cgroup,omitempty"`
	// Log takes what the program writes. When it grows beyond LogLimit it is moved
	// to Log.1 and begun anew.
	Log      string `json:"log"`
	LogLimit int64  `json:"logLimit,omitempty"` // bytes; DefaultLogLimit if zero
	// StopTimeout is how long the program may take to end after SIGTERM before it
	// gets SIGKILL; DefaultStopTimeout if zero.
	StopTimeout time.Duration `json:"stopTimeout,omitempty"`
}

// Defaults of Service.
const (
	DefaultLogLimit    = 16 << 20
	DefaultStopTimeout = 10 * time.Second
)

// spec is what a supervisor reads: the service, and the fingerprint of what it
// was when the spec was written.
type spec struct {
	Service     Service `json:"service"`
	Fingerprint string  `json:"fingerprint"`
}

// State is what a supervisor tells about its service.
type State struct {
	Service     string    `json:"service"`
	Fingerprint string    `json:"fingerprint"`
	Supervisor  Identity  `json:"supervisor"`
	Child       Identity  `json:"child"` // zero between two starts
	Started     time.Time `json:"started"`
	Restarts    int       `json:"restarts"`
	LastExit    string    `json:"lastExit,omitempty"`
}

var serviceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate tells what is wrong with s.
func (s Service) Validate() error {
	switch {
	case !serviceName.MatchString(s.Name):
		return fmt.Errorf("service name %q: only lower case letters, digits and dashes are allowed", s.Name)
	case len(s.Command) == 0 || !filepath.IsAbs(s.Command[0]):
		return fmt.Errorf("service %s: the command must begin with an absolute path", s.Name)
	case !filepath.IsAbs(s.Log):
		return fmt.Errorf("service %s: the log must be an absolute path", s.Name)
	case s.LogLimit < 0 || s.StopTimeout < 0:
		return fmt.Errorf("service %s: negative limit", s.Name)
	case s.Cgroup != "" && !filepath.IsLocal(s.Cgroup):
		return fmt.Errorf("service %s: cgroup %q is no relative path", s.Name, s.Cgroup)
	}
	return nil
}

// fingerprint changes when the service or the content of one of its inputs does.
func (s Service) fingerprint() (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(s); err != nil {
		return "", err
	}
	for _, path := range s.Inputs {
		if err := hashFile(h, path); err != nil {
			return "", fmt.Errorf("service %s: %w", s.Name, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// digests remembers the content digests of files by what changes when they are
// replaced: many services have the same large binary as their input.
var digests sync.Map

type fileVersion struct {
	path              string
	device, inode     uint64
	size              int64
	modified, changed int64 // nanoseconds since the epoch
}

func hashFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return err
	}
	version := fileVersion{path, s.Dev, s.Ino, s.Size, s.Mtim.Nano(), s.Ctim.Nano()}
	digest, ok := digests.Load(version)
	if !ok {
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		digest = h.Sum(nil)
		digests.Store(version, digest)
	}
	_, err = w.Write(digest.([]byte))
	return err
}

func parseSpec(data []byte) (spec, error) {
	var s spec
	if err := json.Unmarshal(data, &s); err != nil {
		return spec{}, err
	}
	return s, s.Service.Validate()
}

// ParseState reads a state file.
func ParseState(data []byte) (State, error) {
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, err
	}
	if !serviceName.MatchString(s.Service) {
		return State{}, fmt.Errorf("state of a service named %q", s.Service)
	}
	if s.Supervisor.PID < 0 || s.Child.PID < 0 {
		return State{}, errors.New("state with a negative process id")
	}
	return s, nil
}

func specFile(dir, name string) string  { return filepath.Join(dir, name+".service.json") }
func stateFile(dir, name string) string { return filepath.Join(dir, name+".state.json") }

// readState returns the zero State when there is none, or none that can be read:
// what it would have named is found by its cgroup then.
func readState(dir, name string) State {
	data, err := os.ReadFile(stateFile(dir, name))
	if err != nil {
		return State{}
	}
	s, err := ParseState(data)
	if err != nil || s.Service != name {
		return State{}
	}
	return s
}

// writeJSON replaces path in one step, so that a reader never sees half of it.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(data, '\n'), 0o600)
}

// WriteFile replaces path in one step with data, so that neither a reader nor a
// crash sees half of it.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(mode)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
