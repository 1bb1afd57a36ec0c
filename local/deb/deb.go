// Package deb gets what the embedded super cluster needs out of Debian's
// packages.
package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

const (
	// installTimeout bounds one apt-get call, downloads included.
	installTimeout = 10 * time.Minute
	// lockTimeout makes apt-get wait for another one's lock, in seconds: a
	// fresh machine is often still updating itself.
	lockTimeout = "DPkg::Lock::Timeout=120"
)

// Install makes sure that the packages are installed: it asks dpkg which are
// missing and installs those, without recommended ones, in one apt-get call.
// apt's output is appended to logFile. On a system without dpkg and apt-get the
// error lists the packages to install by hand. An error is a *progress.LogError
// where the log or a hint explains it.
func Install(ctx context.Context, logFile string, packages ...string) error {
	return machine().install(ctx, logFile, packages)
}

// system is what there is on a machine to handle packages with.
type system struct {
	dpkgQuery, dpkgDeb, aptGet string // programs, found through PATH
	isRoot                     bool
}

// machine is the system that this process runs on.
func machine() system {
	return system{dpkgQuery: "dpkg-query", dpkgDeb: "dpkg-deb", aptGet: "apt-get", isRoot: os.Geteuid() == 0}
}

func (s system) install(ctx context.Context, logFile string, packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	if err := s.check(packages...); err != nil {
		return err
	}
	missing, err := s.missing(ctx, packages)
	if err != nil || len(missing) == 0 {
		return err
	}
	byHand := fmt.Sprintf("Install by hand, then try again: apt-get install %s", strings.Join(missing, " "))
	if !s.isRoot {
		return &progress.LogError{
			Err:  fmt.Errorf("packages are missing and only root can install them: %s", strings.Join(missing, ", ")),
			Hint: byHand,
		}
	}
	// A fresh machine has no package lists; an old one has lists whose packages
	// are gone from the mirror. Where the lists cannot be had, those that are
	// there may do.
	updateErr := s.update(ctx, logFile)
	if ctx.Err() != nil {
		return fmt.Errorf("apt-get update: %w", ctx.Err())
	}
	install := []string{s.aptGet, "-q", "-o", lockTimeout, "install", "-y", "--no-install-recommends"}
	if err := s.run(ctx, logFile, "", append(install, missing...)...); err != nil {
		err = fmt.Errorf("apt-get install %s: %w", strings.Join(missing, " "), err)
		if updateErr != nil {
			err = fmt.Errorf("%w (and before that, apt-get update: %w)", err, updateErr)
		}
		return &progress.LogError{Err: err, Log: logFile, Hint: byHand}
	}
	return nil
}

// missing returns those of the packages that are not installed, in their order.
func (s system) missing(ctx context.Context, packages []string) ([]string, error) {
	var out, stderr bytes.Buffer
	query := exec.CommandContext(ctx, s.dpkgQuery, append([]string{"--show", "--showformat", "${Package} ${db:Status-Status}\n", "--"}, packages...)...)
	query.Stdout, query.Stderr = &out, &stderr
	// Exit status 1 means that some package is unknown; the known ones are
	// listed nevertheless.
	var exit *exec.ExitError
	if err := query.Run(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return nil, fmt.Errorf("asking dpkg which of %s are installed: %w: %s", strings.Join(packages, ", "), err, strings.TrimSpace(stderr.String()))
	}
	installed := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		name, status, _ := strings.Cut(strings.TrimSpace(line), " ")
		if status == "installed" {
			installed[name] = true
		}
	}
	var missing []string
	for _, name := range packages {
		if !installed[name] {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

// check refuses a machine that is not of Debian's kind.
func (s system) check(packages ...string) error {
	for _, program := range []string{s.dpkgQuery, s.aptGet} {
		if _, err := exec.LookPath(program); err != nil {
			return &progress.LogError{
				Err:  fmt.Errorf("this is no Debian or Ubuntu: %s is not there", filepath.Base(program)),
				Hint: fmt.Sprintf("The embedded super cluster gets what it needs with apt-get. Use Debian 12 or newer, or Ubuntu 22.04 or newer; it needs the packages %s.", strings.Join(packages, ", ")),
			}
		}
	}
	return nil
}

func (s system) update(ctx context.Context, logFile string) error {
	return s.run(ctx, logFile, "", s.aptGet, "-q", "-o", lockTimeout, "update")
}

// run runs a program in dir and appends its output to the log.
func (s system) run(ctx context.Context, logFile, dir string, args ...string) error {
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return fmt.Errorf("making the folder of apt's log: %w", err)
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening apt's log: %w", err)
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	fmt.Fprintf(log, "\n$ %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = log, log
	// A package manager that is killed half-way leaves half-installed packages;
	// it cleans up after an interrupt.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	return nil
}
