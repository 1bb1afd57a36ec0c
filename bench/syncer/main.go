// Command syncer measures the syncer: pods created through tenants, and as a baseline
// the same pods created in the super cluster, in one run, with the same scheduler and
// the same nodes, which KWOK plays. It starts all that it needs from the built programs,
// on loopback, needs no root and no embedded cluster, and prints a table and writes
// bench/out/syncer.json.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

// size of a run. The environment chooses it.
type size struct {
	tenants, pods, nodes int
	// light is how many pods are created one after the other.
	light int
	// schedulerQPS is the limit of the super cluster's kube-scheduler.
	schedulerQPS int
}

func main() {
	out := flag.String("out", "bench/out/syncer.json", "file for the figures")
	program := flag.String("syncer", "", "the syncer to measure; empty builds the work tree's")
	keep := flag.Bool("keep", false, "keep the directory with logs")
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *out, *program, *keep)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench syncer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, program string, keep bool) (err error) {
	s, err := sizeFrom(os.Getenv)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-syncer-")
	if err != nil {
		return err
	}
	w := &world{dir: dir}
	defer func() {
		w.stop()
		if keep {
			fmt.Println("logs are in", dir)
			return
		}
		if problem := os.RemoveAll(dir); problem != nil && err == nil {
			err = problem
		}
	}()
	r := newResult(s)
	if err := measure(ctx, w, s, program, r); err != nil {
		return err
	}
	r.print(os.Stdout)
	return r.write(filepath.Clean(out))
}

// sizeFrom reads TENANTS, PODS, NODES, LIGHT and SCHEDULER_QPS.
func sizeFrom(env func(string) string) (size, error) {
	s := size{tenants: 10, pods: 1000, light: 50, schedulerQPS: 50}
	read := func(name string, into *int, least int) error {
		text := env(name)
		if text == "" {
			return nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < least {
			return fmt.Errorf("%s=%q: a number of at least %d is expected", name, text, least)
		}
		*into = n
		return nil
	}
	for _, one := range []struct {
		name  string
		into  *int
		least int
	}{{"TENANTS", &s.tenants, 2}, {"PODS", &s.pods, 10}, {"NODES", &s.nodes, 1}, {"LIGHT", &s.light, 1}, {"SCHEDULER_QPS", &s.schedulerQPS, 1}} {
		if err := read(one.name, one.into, one.least); err != nil {
			return s, err
		}
	}
	if s.nodes == 0 {
		s.nodes = min(100, max(5, s.pods/50)) // the paper's 100 at the largest size
	}
	if s.pods < s.tenants {
		return s, fmt.Errorf("PODS=%d must not be less than TENANTS=%d", s.pods, s.tenants)
	}
	return s, nil
}
