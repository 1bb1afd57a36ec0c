package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/guest/guesttest"
	"github.com/bulkhead-dev/bulkhead/cri-ext/netns"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/local/namespace"
)

// Repetitions of a whole set and of a delta; the median counts.
const (
	sets   = 5
	deltas = 21
)

// measureNamespaces sends sets into network namespaces that have none yet, as into
// those of new pods.
func measureNamespaces(ctx context.Context, r *result) error {
	dir, err := os.MkdirTemp("", "bh-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r.Inject["netns"], r.Delta["netns"] = bySize{}, bySize{}
	for _, size := range sizes {
		var whole []time.Duration
		for i := range sets {
			path := filepath.Join(dir, fmt.Sprintf("bh-bench-%d-%d", size, i))
			if err := namespace.Create(namespace.Net, path, func() error { return nil }); err != nil {
				return err
			}
			recipient := ruleset.Recipient{Tenant: "bench", Sandbox: path}
			c := netns.New(recipient, path, nil, nil)
			took, err := inject(ctx, c, size, uint64(1))
			if err == nil && i == sets-1 {
				var median time.Duration
				median, err = change(ctx, c, size, 1)
				r.Delta["netns"][strconv.Itoa(size)] = milliseconds(median)
			}
			closeErr := c.Close()
			if removeErr := namespace.Remove(path); err == nil {
				err = removeErr
			}
			if err == nil {
				err = closeErr
			}
			if err != nil {
				return err
			}
			whole = append(whole, took)
		}
		r.Inject["netns"][strconv.Itoa(size)] = milliseconds(quantile(whole, .5))
	}
	return nil
}

// measureGuest sends sets to the agent of a microVM, which is emulated: its kernel is
// some ten times slower than one on hardware.
func measureGuest(ctx context.Context, r *result) error {
	r.Inject["guest"], r.Delta["guest"] = bySize{}, bySize{}
	for _, size := range sizes {
		// A guest of its own for each size, whose kernel starts empty.
		c, memory, stop, err := guesttest.StartGuest(ctx, "ipvs")
		if err != nil {
			return err
		}
		took, err := inject(ctx, c, size, 1)
		var median time.Duration
		if err == nil {
			median, err = change(ctx, c, size, 1)
		}
		var bytes int64
		if err == nil {
			bytes, err = memory(ctx)
		}
		stop()
		if err != nil {
			return err
		}
		r.Inject["guest"][strconv.Itoa(size)] = milliseconds(took)
		r.Delta["guest"][strconv.Itoa(size)] = milliseconds(median)
		r.Memory.Agent = float64(bytes) / (1 << 20)
	}
	return nil
}

// inject sends a whole set and returns the time until the kernel has acknowledged.
func inject(ctx context.Context, c channel.Channel, size int, generation uint64) (time.Duration, error) {
	set, err := ruleset.New(c.Recipient().Tenant, generation, ranges, services(size, 1))
	if err != nil {
		return 0, err
	}
	granted, err := c.Recipient().Accept(set, nil)
	if err != nil {
		return 0, err
	}
	// The greeting finds out what the kernel has, once in a sandbox's life.
	if _, err := c.Hello(ctx); err != nil {
		return 0, err
	}
	return timed(func() error {
		_, err := c.Send(ctx, granted)
		return err
	})
}

// change sends deltas of one Service and returns their median time.
func change(ctx context.Context, c channel.Channel, size int, generation uint64) (time.Duration, error) {
	tenant := c.Recipient().Tenant
	before, err := ruleset.New(tenant, generation, ranges, services(size, 1))
	if err != nil {
		return 0, err
	}
	var times []time.Duration
	for i := range deltas {
		after, err := ruleset.New(tenant, before.Generation()+1, ranges, services(size, byte(2+i)))
		if err != nil {
			return 0, err
		}
		delta, err := ruleset.Diff(before, after)
		if err != nil {
			return 0, err
		}
		granted, err := c.Recipient().Accept(after, delta)
		if err != nil {
			return 0, err
		}
		took, err := timed(func() error {
			ack, err := c.Send(ctx, granted)
			if err == nil && !ack.Delta {
				err = fmt.Errorf("a whole set of %d was sent in place of a delta", size)
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		times = append(times, took)
		before = after
	}
	return quantile(times, .5), nil
}

func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}
