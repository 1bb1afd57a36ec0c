package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// atOnce is how many clusters start at the same time: each has a core to itself on the
// machines that this is tested on.
const atOnce = 2

// NewAll starts clusters side by side that end with the test.
func NewAll(t testing.TB, options ...Options) []*Cluster {
	t.Helper()
	clusters, err := StartAll(t.Context(), t.TempDir(), options...)
	if err != nil {
		t.Fatal(err)
	}
	for _, cluster := range clusters {
		t.Cleanup(cluster.Stop)
	}
	return clusters
}

// StartAll starts clusters side by side, for a TestMain that shares them among tests:
// all, or none. Their files lie in folders of dir that have their numbers. The caller
// stops them.
func StartAll(ctx context.Context, dir string, options ...Options) ([]*Cluster, error) {
	clusters, failures := make([]*Cluster, len(options)), make([]error, len(options))
	slots := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i := range options {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			at := filepath.Join(dir, strconv.Itoa(i))
			if err := os.MkdirAll(at, 0o700); err != nil {
				failures[i] = fmt.Errorf("making the folder of test cluster %d: %w", i, err)
				return
			}
			clusters[i], failures[i] = Start(ctx, at, options[i])
		})
	}
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		for _, cluster := range clusters {
			if cluster != nil {
				cluster.Stop()
			}
		}
		return nil, err
	}
	return clusters, nil
}
