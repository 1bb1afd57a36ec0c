// Command startup measures how long a virtual cluster takes from its creation to
// Ready, and which phase takes which share. It creates virtual clusters one after
// the other in the super cluster of $KUBECONFIG, deletes each again, and writes
// the medians to bench/out/startup.json. The first one warms up (images, caches)
// and does not count.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
)

// timeout bounds one creation and one deletion.
const timeout = 3 * time.Minute

// result is what is written as JSON; times in milliseconds.
type result struct {
	Machine string           `json:"machine"`
	Runs    []int64          `json:"ready_ms"`
	Median  int64            `json:"ready_ms_median"`
	Phases  map[string]int64 `json:"phase_ms_median"`
}

func main() {
	runs := flag.Int("runs", 5, "virtual clusters to measure")
	namespace := flag.String("namespace", "bench", "namespace to create them in; made if absent")
	class := flag.String("class", "default", "their class")
	out := flag.String("out", "bench/out/startup.json", "file for the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *runs, *namespace, *class, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench startup:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, runs int, namespace, class, out string) error {
	restConfig, err := config.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the super cluster: %w", err)
	}
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	c, err := client.NewWithWatch(restConfig, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("making a client of the super cluster: %w", err)
	}
	err = c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	if client.IgnoreAlreadyExists(err) != nil {
		return fmt.Errorf("creating namespace %s: %w", namespace, err)
	}
	totals, shares := []time.Duration{}, map[string][]time.Duration{}
	for i := range runs + 1 {
		timeline, err := measure(ctx, c, &v1alpha1.VirtualCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("startup-%d", i)},
			Spec:       v1alpha1.VirtualClusterSpec{ClassName: class},
		})
		if err != nil {
			return err
		}
		ready := timeline.After(v1alpha1.ConditionReady)
		if i == 0 {
			fmt.Printf("warm-up: Ready after %s\n", ready.Round(time.Millisecond))
			continue
		}
		fmt.Printf("run %d:   Ready after %s\n", i, ready.Round(time.Millisecond))
		totals = append(totals, ready)
		for _, p := range timeline.Phases() {
			shares[p.Name] = append(shares[p.Name], p.Share)
		}
	}
	return report(totals, shares, out)
}

// measure creates the virtual cluster, notes when each condition comes true, and
// deletes it again.
func measure(ctx context.Context, c client.WithWatch, vc *v1alpha1.VirtualCluster) (*phase.Timeline, error) {
	name := vc.Namespace + "/" + vc.Name
	watchCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	watcher, err := c.Watch(watchCtx, &v1alpha1.VirtualClusterList{}, client.InNamespace(vc.Namespace))
	if err != nil {
		return nil, fmt.Errorf("watching virtual clusters: %w", err)
	}
	defer watcher.Stop()
	timeline := phase.NewTimeline(time.Now())
	if err := c.Create(ctx, vc); err != nil {
		return nil, fmt.Errorf("creating virtual cluster %s: %w", name, err)
	}
	if err := until(watcher, vc, func(event watch.Event, seen *v1alpha1.VirtualCluster) bool {
		timeline.Observe(seen, time.Now())
		return phase.Ready(seen)
	}); err != nil {
		return nil, fmt.Errorf("virtual cluster %s did not get Ready: %w", name, err)
	}
	if err := c.Delete(ctx, vc); err != nil {
		return nil, fmt.Errorf("deleting virtual cluster %s: %w", name, err)
	}
	if err := until(watcher, vc, func(event watch.Event, _ *v1alpha1.VirtualCluster) bool {
		return event.Type == watch.Deleted
	}); err != nil {
		return nil, fmt.Errorf("virtual cluster %s did not go: %w", name, err)
	}
	return timeline, nil
}

// until reads events about vc until done says so.
func until(watcher watch.Interface, vc *v1alpha1.VirtualCluster, done func(watch.Event, *v1alpha1.VirtualCluster) bool) error {
	waits := "it was not seen"
	for event := range watcher.ResultChan() {
		seen, ok := event.Object.(*v1alpha1.VirtualCluster)
		if !ok || seen.Name != vc.Name {
			continue
		}
		if done(event, seen) {
			return nil
		}
		waits = "it waits " + phase.Waits(seen)
	}
	return errors.New("the watch ended; " + waits)
}

func report(totals []time.Duration, shares map[string][]time.Duration, out string) error {
	r := result{Machine: fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), Median: median(totals).Milliseconds(), Phases: map[string]int64{}}
	for _, total := range totals {
		r.Runs = append(r.Runs, total.Milliseconds())
	}
	fmt.Printf("\n%-24s %10s %7s\n", "phase", "median", "share")
	for _, name := range phase.Order {
		if list := shares[name]; len(list) > 0 {
			m := median(list)
			r.Phases[name] = m.Milliseconds()
			fmt.Printf("%-24s %8dms %6.1f%%\n", name, m.Milliseconds(), 100*float64(m)/float64(median(totals)))
		}
	}
	fmt.Printf("%-24s %8dms (median of %d, %s)\n", "Ready", r.Median, len(totals), r.Machine)
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	if err := os.WriteFile(out, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}

func median(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}
