package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// measure runs all parts, one after the other.
func measure(ctx context.Context, w *world, s size, program string, r *result) error {
	if err := w.build(ctx, s); err != nil {
		return err
	}
	if err := w.prepareSyncer(ctx, program); err != nil {
		return err
	}
	o, err := w.observe(ctx)
	if err != nil {
		return err
	}
	if err := w.startSyncer("--leader-elect=false"); err != nil {
		return err
	}
	if err := w.awaitSynced(ctx); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func(context.Context, *world, *observer, size, *result) error
	}{
		{"light load: one pod at a time, in turns", measureLight},
		{"all pods at once, into the super cluster", measureBaseline},
		{"all pods at once, through tenants", measureTenants},
		{"patrol", measurePatrol},
		{"restart", measureRestart},
		{"fairness", measureFairness},
		{"all pods at once, with a scheduler that is not limited", measureSaturated},
	} {
		fmt.Printf("%s  %s\n", time.Now().Format(time.TimeOnly), part.name)
		if err := part.run(ctx, w, o, s, r); err != nil {
			return fmt.Errorf("measuring %s: %w", part.name, err)
		}
	}
	return nil
}

// through are the sites in tenants' clusters.
func (w *world) through() []site {
	sites := make([]site, len(w.tenants))
	for i, t := range w.tenants {
		sites[i] = t.site
	}
	return sites
}

// measureLight creates pods one after the other, by turns in the super cluster and in a tenant.
func measureLight(ctx context.Context, w *world, o *observer, s size, r *result) error {
	// The first pods of a tenant make its namespace, its nodes and connections.
	warm := o.begin()
	if err := burst(ctx, warm, w.through(), "warm", 2); err != nil {
		return err
	}
	if err := burst(ctx, warm, w.baseline, "warm", 1); err != nil {
		return err
	}
	var direct, tenant []time.Duration
	for i := range s.light {
		for _, way := range []struct {
			sites []site
			into  *[]time.Duration
		}{{w.baseline, &direct}, {w.through(), &tenant}} {
			records := o.begin()
			if err := sequence(ctx, records, way.sites, []int{i % s.tenants}, fmt.Sprintf("light-%d", i), 1); err != nil {
				return err
			}
			*way.into = append(*way.into, latencies(records.list())...)
		}
	}
	before, after := quantilesOf(direct), quantilesOf(tenant)
	r.Light.Baseline, r.Light.Tenant = before, after
	r.Added.P50, r.Added.P99 = rounded(after.P50-before.P50), rounded(after.P99-before.P99)
	return w.clearAll(ctx, o)
}

func (w *world) clearAll(ctx context.Context, o *observer) error {
	return w.clear(ctx, o, append(w.through(), w.baseline...))
}

func latencies(lives []*life) []time.Duration {
	list := make([]time.Duration, len(lives))
	for i, l := range lives {
		list[i] = l.latency()
	}
	return list
}

// throughput is how many pods a second became Ready, from the first posting to the last Ready.
func throughput(lives []*life) float64 {
	first, last := lives[0].posted, lives[0].ready
	for _, l := range lives {
		if l.posted.Before(first) {
			first = l.posted
		}
		if l.ready.After(last) {
			last = l.ready
		}
	}
	return float64(len(lives)) / last.Sub(first).Seconds()
}

// measureBaseline has all pods created in the super cluster at once.
func measureBaseline(ctx context.Context, w *world, o *observer, s size, r *result) error {
	return measureBurst(ctx, w, o, s, w.baseline, &r.contest, "baseline")
}

// measureTenants has them created through tenants, and looks at what the syncer does meanwhile.
func measureTenants(ctx context.Context, w *world, o *observer, s size, r *result) error {
	idle, err := w.accounted(func() error { return pause(ctx, idleFor) })
	if err != nil {
		return err
	}
	r.Syncer.IdleCPU = rounded(idle["syncer"] / idleFor.Seconds())
	before, err := w.metrics.read(ctx)
	if err != nil {
		return err
	}
	if err := measureBurst(ctx, w, o, s, w.through(), &r.contest, "tenant"); err != nil {
		return err
	}
	after, err := w.metrics.read(ctx)
	if err != nil {
		return err
	}
	used, err := usageOf(w.syncer.pid())
	if err != nil {
		return err
	}
	lives := o.record().list()
	r.Syncer.CPU = r.CPU["tenant"]["syncer"]
	r.Syncer.CPUPer10000 = rounded(r.Syncer.CPU / float64(len(lives)) * 10000)
	r.Syncer.RSS, r.Syncer.Anonymous = megabytes(used.Peak), megabytes(used.Anonymous)
	r.Phases = phasesOf(lives, before, after)
	r.Writes = perPod(before, after, "bulkhead_syncer_writes_total", len(lives))
	r.Handlings = perPod(before, after, "bulkhead_syncer_reconcile_seconds_count", len(lives))
	return nil
}

// measureSaturated does both with a scheduler at no limit: then what counts is what all
// programs together take of the machine.
func measureSaturated(ctx context.Context, w *world, o *observer, s size, r *result) error {
	if err := w.clearAll(ctx, o); err != nil {
		return err
	}
	w.scheduler.kill()
	if err := w.startScheduler(unlimitedQPS); err != nil {
		return err
	}
	// It begins with its caches.
	if err := burst(ctx, o.begin(), w.through(), "warm", 2); err != nil {
		return err
	}
	if err := measureBurst(ctx, w, o, s, w.baseline, &r.Saturated, "baseline"); err != nil {
		return err
	}
	return measureBurst(ctx, w, o, s, w.through(), &r.Saturated, "tenant")
}

// unlimitedQPS is more than any scheduler does.
const unlimitedQPS = 10000

// measureBurst creates all pods at once and notes how that went.
func measureBurst(ctx context.Context, w *world, o *observer, s size, sites []site, into *contest, way string) error {
	records := o.begin()
	taken, err := w.accounted(func() error { return burst(ctx, records, sites, "burst", s.pods/s.tenants) })
	if err != nil {
		return err
	}
	lives := records.list()
	if into.CPU == nil {
		into.CPU = map[string]map[string]float64{}
	}
	into.CPU[way] = taken
	if way == "tenant" {
		into.Throughput.Tenant, into.Latency.Tenant = rounded(throughput(lives)), quantilesOf(latencies(lives))
		into.Ratio = rounded(into.Throughput.Tenant / into.Throughput.Baseline)
		return nil
	}
	into.Throughput.Baseline, into.Latency.Baseline = rounded(throughput(lives)), quantilesOf(latencies(lives))
	return w.clearAll(ctx, o)
}

// idleFor is how long the processes are watched while nothing is to be done.
const idleFor = 10 * time.Second

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// nameOf says what a process is: its program, and of control planes whose.
func (w *world) nameOf(pid int, words []string) string {
	name := filepath.Base(words[0])
	switch {
	case pid == os.Getpid():
		return "bench"
	case w.syncer != nil && pid == w.syncer.pid():
		return "syncer"
	case name != "hyperkube" || len(words) < 2:
		return name
	case strings.Contains(strings.Join(words, " "), w.super.Dir) || words[1] == "kube-scheduler":
		return "super " + words[1]
	}
	return "tenants' " + words[1]
}

// accounted returns the seconds of processor time that each program took meanwhile.
func (w *world) accounted(run func() error) (map[string]float64, error) {
	before, err := usageByProgram(w.nameOf)
	if err != nil {
		return nil, err
	}
	if err := run(); err != nil {
		return nil, err
	}
	after, err := usageByProgram(w.nameOf)
	if err != nil {
		return nil, err
	}
	taken := map[string]float64{}
	for name, u := range after {
		taken[name] = rounded((u.CPU - before[name].CPU).Seconds())
	}
	return taken, nil
}

// phasesOf are the means of the parts of the way of a pod, as the ancestor's paper has them. What
// the syncer's queue and its handling take is its own metric; the rest was seen from outside.
func phasesOf(lives []*life, before, after samples) phases {
	part := func(from, to func(*life) time.Time) float64 {
		var list []time.Duration
		for _, l := range lives {
			list = append(list, to(l).Sub(from(l)))
		}
		return milliseconds(mean(list))
	}
	p := phases{
		Post:  part(func(l *life) time.Time { return l.posted }, func(l *life) time.Time { return l.returned }),
		Down:  part(func(l *life) time.Time { return l.returned }, func(l *life) time.Time { return l.superSeen }),
		Sched: part(func(l *life) time.Time { return l.superSeen }, func(l *life) time.Time { return l.superBound }),
		Run:   part(func(l *life) time.Time { return l.superBound }, func(l *life) time.Time { return l.superReady }),
		Up:    part(func(l *life) time.Time { return l.superReady }, func(l *life) time.Time { return l.ready }),
	}
	p.Wait = rounded(1000 * after.meanSince(before, "bulkhead_syncer_wait_seconds", `direction="down"`))
	p.Handling = rounded(1000 * after.meanSince(before, "bulkhead_syncer_reconcile_seconds", `kind="pods"`))
	return p
}

// perPod is how much counters have grown in between for each pod, by their labels.
func perPod(before, after samples, name string, pods int) map[string]float64 {
	out := map[string]float64{}
	for key, value := range after {
		if labels, is := strings.CutPrefix(key, name); is && value > before[key] {
			out[labels] = rounded((value - before[key]) / float64(pods))
		}
	}
	return out
}

const (
	patrolInterval = 5 * time.Second
	// patrolRounds of every tenant are looked at.
	patrolRounds = 3
)

// measurePatrol has all that is there compared again and again, by a syncer that was
// started for that and may do so as fast as it can.
func measurePatrol(ctx context.Context, w *world, o *observer, s size, r *result) error {
	w.syncer.kill()
	if err := w.startSyncer("--leader-elect=false", "--patrol-interval="+patrolInterval.String(), "--patrol-rate=1000000"); err != nil {
		return err
	}
	if err := burst(ctx, o.begin(), w.through(), "patrolled", 1); err != nil {
		return err
	}
	const rounds, compared, seconds = "bulkhead_syncer_patrol_rounds_total", "bulkhead_syncer_patrol_compared_total", "bulkhead_syncer_patrol_round_seconds"
	look := func(least float64) (after samples, err error) {
		err = await(ctx, "the patrol's rounds", 200*time.Millisecond, podLimit, func(ctx context.Context) error {
			if after, err = w.metrics.read(ctx); err == nil && after.sum(rounds, `"complete"`) < least {
				err = fmt.Errorf("there were %.0f of %.0f", after.sum(rounds, `"complete"`), least)
			}
			return err
		})
		return after, err
	}
	before, err := look(float64(s.tenants))
	if err != nil {
		return err
	}
	begin := time.Now()
	var after samples
	taken, err := w.accounted(func() error {
		after, err = look(before.sum(rounds, `"complete"`) + float64(patrolRounds*s.tenants))
		return err
	})
	if err != nil {
		return err
	}
	objects := after.sum(compared) - before.sum(compared)
	idle := r.Syncer.IdleCPU * time.Since(begin).Seconds()
	r.Patrol = patrolled{
		Objects: rounded(objects / patrolRounds), Round: rounded(1000 * after.meanSince(before, seconds)),
		PerObject: rounded((taken["syncer"] - idle) * 1e6 / objects), Repairs: after.sum("bulkhead_syncer_patrol_repairs_total"),
	}
	return nil
}

// measureRestart ends the syncer with all in place and starts it again.
func measureRestart(ctx context.Context, w *world, o *observer, s size, r *result) error {
	w.syncer.kill()
	records := o.begin()
	begin := time.Now()
	if err := w.startSyncer("--leader-elect=false"); err != nil {
		return err
	}
	// A new pod in every tenant: that they are Ready there says that all are synced, both ways.
	if err := burst(ctx, records, w.through(), "restart", 1); err != nil {
		return err
	}
	r.Restart = rounded(time.Since(begin).Seconds())
	used, err := usageOf(w.syncer.pid())
	r.RestartCPU = rounded(used.CPU.Seconds())
	return err
}

func measureFairness(ctx context.Context, w *world, o *observer, s size, r *result) error {
	if err := w.clearAll(ctx, o); err != nil {
		return err
	}
	greedy := max(1, s.tenants/5)
	var regular []int
	for i := greedy; i < s.tenants; i++ {
		regular = append(regular, i)
	}
	alone := o.begin()
	if err := sequence(ctx, alone, w.through(), regular, "alone", 10); err != nil {
		return err
	}
	beside := o.begin()
	ended := make(chan error, 1)
	go func() {
		ended <- burst(ctx, beside, w.through()[:greedy], "greedy", s.pods*9/10/greedy)
	}()
	if err := sequence(ctx, beside, w.through(), regular, "beside", 10); err != nil {
		return err
	}
	during := beside.unready()
	if err := <-ended; err != nil {
		return err
	}
	lives := beside.bySite()
	var theirs, ours []time.Duration
	for i, list := range lives {
		if i < greedy {
			theirs = append(theirs, list...)
		} else {
			ours = append(ours, list...)
		}
	}
	before, after := quantilesOf(latencies(alone.list())), quantilesOf(ours)
	r.Fairness = fairness{
		Greedy: greedy, GreedyPods: s.pods * 9 / 10 / greedy, Regular: len(regular), Left: during,
		AloneP50: before.P50, AloneP99: before.P99, BesideP50: after.P50, BesideP99: after.P99, GreedyP50: milliseconds(quantile(theirs, 0.5)),
	}
	return nil
}
