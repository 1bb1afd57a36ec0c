package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that the bench runs. It ends with the bench, however that ends.
type process struct {
	command *exec.Cmd
	log     string
	done    chan struct{}
}

// start runs a program with its output in dir.
func start(dir, program string, args []string, environment ...string) (*process, error) {
	log := filepath.Join(dir, filepath.Base(program)+"-"+filepath.Base(args[0])+".log")
	output, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", program, err)
	}
	defer output.Close()
	command := exec.Command(program, args...)
	command.Stdout, command.Stderr = output, output
	command.Env = append(os.Environ(), environment...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	p := &process{command: command, log: log, done: make(chan struct{})}
	go func() {
		_ = command.Wait() // how it ended shows in its log
		close(p.done)
	}()
	return p, nil
}

// kill ends a process as kill -9 does and returns when it is gone.
func (p *process) kill() {
	_ = p.command.Process.Kill() // it may have ended by itself
	<-p.done
}

// check returns an error with the end of the log if the process has ended.
func (p *process) check() error {
	select {
	case <-p.done:
		data, err := os.ReadFile(p.log)
		if err != nil {
			return err
		}
		return fmt.Errorf("%s has ended and says:\n%s", filepath.Base(p.command.Path), data[max(0, len(data)-2000):])
	default:
		return nil
	}
}

func (p *process) pid() int { return p.command.Process.Pid }

// usage is what processes have taken so far.
type usage struct {
	CPU time.Duration
	// RSS is resident memory now, Peak the most of it there has been, Anonymous what of
	// it is no file's; in bytes.
	RSS, Peak, Anonymous int64
}

// clockTick is what /proc counts time in; it is 100 Hz on all of Linux' architectures.
const clockTick = 10 * time.Millisecond

// usageOf reads what a process has taken.
func usageOf(pid int) (usage, error) {
	var u usage
	fields, err := statOf(pid)
	if err != nil {
		return u, err
	}
	for _, field := range fields[11:13] { // utime and stime, see proc_pid_stat(5)
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return u, fmt.Errorf("reading the time of process %d: %w", pid, err)
		}
		u.CPU += time.Duration(ticks) * clockTick
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		words := strings.Fields(line)
		if len(words) != 3 || words[2] != "kB" {
			continue
		}
		kilobytes, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return u, fmt.Errorf("reading the memory of process %d: %w", pid, err)
		}
		switch words[0] {
		case "VmRSS:":
			u.RSS = kilobytes << 10
		case "VmHWM:":
			u.Peak = kilobytes << 10
		case "RssAnon:":
			u.Anonymous = kilobytes << 10
		}
	}
	return u, nil
}

// statOf reads the fields of /proc/PID/stat after the name, the process's state first.
func statOf(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, after, found := bytes.Cut(data[max(0, bytes.LastIndexByte(data, ')')-1):], []byte(") "))
	fields := strings.Fields(string(after))
	if !found || len(fields) < 13 {
		return nil, fmt.Errorf("reading /proc/%d/stat: %q", pid, data)
	}
	return fields, nil
}

// usageByProgram adds up what the bench itself and the processes that it runs have
// taken, by what name says of a command line; "" leaves one out.
func usageByProgram(name func(pid int, words []string) string) (map[string]usage, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	sums, self := map[string]usage{}, os.Getpid()
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fields, err := statOf(pid)
		if err != nil || (fields[1] != strconv.Itoa(self) && pid != self) {
			continue // it has ended, or is none of ours
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		u, err := usageOf(pid)
		if err != nil {
			continue
		}
		at := name(pid, strings.Split(string(line), "\x00"))
		sum := sums[at]
		sum.CPU += u.CPU
		sum.RSS += u.RSS
		sum.Peak += u.Peak
		sum.Anonymous += u.Anonymous
		sums[at] = sum
	}
	delete(sums, "")
	return sums, nil
}

// await polls a condition until it holds.
func await(ctx context.Context, what string, interval, limit time.Duration, holds func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last error
	for {
		if last = holds(ctx); last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waiting for %s: %w", what, ctx.Err()), last)
		case <-tick.C:
		}
	}
}
