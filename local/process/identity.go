// Package process keeps the embedded super cluster's programs running, one small
// supervisor per program, and finds and ends everything it started.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Identity names one process for ever: a process id is reused after the process
// ends, its start time together with the boot is not.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, field 22 of proc(5)'s stat
	Boot  string `json:"boot"`  // /proc/sys/kernel/random/boot_id
}

// bootID is the same for every process until the machine restarts.
var bootID = sync.OnceValues(func() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
})

// Identify returns the identity of the running process pid; os.ErrNotExist if
// there is none.
func Identify(pid int) (Identity, error) {
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, syscall.ESRCH) {
		err = os.ErrNotExist
	}
	if err != nil {
		return Identity{}, err
	}
	state, start, err := parseStat(data)
	if err != nil {
		return Identity{}, fmt.Errorf("process %d: %w", pid, err)
	}
	if state == 'Z' || state == 'X' {
		return Identity{}, fmt.Errorf("process %d has ended: %w", pid, os.ErrNotExist)
	}
	return Identity{PID: pid, Start: start, Boot: boot}, nil
}

// parseStat reads state and start time from a line of /proc/PID/stat. The second
// field, the command's name in parentheses, may hold spaces and parentheses.
func parseStat(data []byte) (state byte, start uint64, err error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return 0, 0, errors.New("stat line without a command name")
	}
	fields := strings.Fields(string(data[end+1:])) // from the third on
	const startField = 19                          // the 22nd field of all
	if len(fields) <= startField || len(fields[0]) != 1 {
		return 0, 0, errors.New("stat line too short")
	}
	start, err = strconv.ParseUint(fields[startField], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("stat line's start time: %w", err)
	}
	return fields[0][0], start, nil
}

// Alive tells whether the process runs still.
func (id Identity) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	now, err := Identify(id.PID)
	return err == nil && now == id
}

// Signal sends sig to the process, and to none that took over its process id.
// It returns os.ErrProcessDone when the process has ended.
func (id Identity) Signal(sig os.Signal) error {
	if id.PID <= 0 {
		return os.ErrProcessDone
	}
	// On Linux this opens a pidfd, so that what is checked next is what is signalled.
	p, err := os.FindProcess(id.PID)
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	if !id.Alive() {
		return os.ErrProcessDone
	}
	return p.Signal(sig)
}
