package tenants

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/tenant-proxy/compile"
)

const (
	// readTimeout bounds one read of credentials.
	readTimeout = 10 * time.Second
	// retryMin and retryMax bound the time between reads that fail.
	retryMin, retryMax = time.Second, 30 * time.Second
	// doubtInterval is the least time between reads of credentials because the
	// tenant's apiserver refused those that are held.
	doubtInterval = 10 * time.Second
	// remindInterval is how often a problem that stays is told again; Kubernetes keeps
	// events for an hour.
	remindInterval = 55 * time.Minute
	// restFactor is how many times as long as a compilation took the next one waits
	// while changes go on: a tenant whose Services take long to compile takes up no
	// more than a tenth of a processor.
	restFactor = 9
	// oversizeInterval is how long a cluster that was too large is left alone.
	oversizeInterval = 2 * time.Minute
	// maxReason is the length of what a pod is told about the tenant's cluster, in bytes.
	maxReason = 300
)

// link is the way to one tenant's cluster and what is known from there.
type link struct {
	*Options
	tenant tenancy.Tenant
	log    logr.Logger
	done   chan struct{}
	// wake asks for a compilation, doubt for the credentials to be read again.
	wake, doubt chan struct{}
	// oversize says that the cluster is too large to be watched.
	oversize chan struct{}
	reporter *reporter
	// orphan is called when the tenant's credentials are found to be gone.
	orphan func()

	mu    sync.Mutex
	table *compile.Table
	// sliceOf is the Service of each EndpointSlice in the table.
	sliceOf map[types.NamespacedName]types.NamespacedName
	// synced are the kinds that have been listed since the link began.
	synced map[string]bool
	// trigger is when the first change happened that is not compiled yet.
	trigger time.Time
	// changed: the table is not compiled.
	changed bool
	// served: rules were handed on.
	served bool
	// failing are the kinds that cannot be watched, and why.
	failing map[string]string
	missing bool
	// gaveUp: the cluster is too large, and what was read of it is about to be dropped.
	gaveUp bool
}

func newLink(o *Options, tenant tenancy.Tenant, node compile.Node) *link {
	log := o.Log.WithValues("virtualCluster", tenant.String(), "tenant", tenant.UID)
	return &link{
		Options: o, tenant: tenant, log: log,
		done: make(chan struct{}), wake: make(chan struct{}, 1), doubt: make(chan struct{}, 1), oversize: make(chan struct{}, 1),
		reporter: newReporter(log, o.Node, o.Metrics),
		table:    compile.NewTable(node, nil), sliceOf: map[types.NamespacedName]types.NamespacedName{},
		synced: map[string]bool{}, failing: map[string]string{},
	}
}

// run keeps the tenant's rules up to date until the context ends.
func (l *link) run(ctx context.Context) {
	defer close(l.done)
	l.Metrics.up.WithLabelValues(string(l.tenant.UID)).Set(0)
	l.setPending("its cluster is being read")
	var running sync.WaitGroup
	running.Go(func() { l.connect(ctx) })
	running.Go(func() { l.reporter.run(ctx) })
	l.compileAll(ctx)
	running.Wait()
}

// connect reads credentials and watches with them, anew when they change.
func (l *link) connect(ctx context.Context) {
	var held Credentials
	var stop context.CancelFunc
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	retry := retryMin
	for {
		credentials, err := l.read(ctx)
		interval := wait.Jitter(l.Resync, 0.2)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.unreadable(err)
			interval, retry = wait.Jitter(retry, 0.2), min(2*retry, retryMax)
		default:
			retry = retryMin
			l.setMissing(false)
			if stop != nil && held.equal(credentials) {
				break
			}
			next, err := l.watch(ctx, credentials)
			if err != nil {
				l.unreadable(err)
				break
			}
			if stop != nil {
				stop()
				l.log.Info("Goes on with new credentials")
			}
			stop, held = next, credentials
		}
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-l.doubt:
			timer.Stop()
			if !sleep(ctx, doubtInterval) {
				return
			}
		case <-l.oversize:
			timer.Stop()
			if stop != nil {
				stop()
				stop = nil
			}
			l.reset()
			if !sleep(ctx, oversizeInterval) {
				return
			}
		}
	}
}

func (l *link) read(ctx context.Context) (Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return l.Credentials(ctx, l.tenant)
}

// unreadable says why there are no credentials. What was held before goes on.
func (l *link) unreadable(err error) {
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		l.setMissing(true)
		l.log.V(1).Info("Credentials are not there", "answer", err.Error())
		l.setPending("the platform's credentials for its cluster are not there yet")
		return
	}
	l.log.Error(err, "Cannot read the credentials of a tenant's cluster")
	l.Metrics.failures.WithLabelValues(string(l.tenant.UID), "credentials").Inc()
	l.setPending("the platform's credentials for its cluster cannot be read")
}

func (l *link) setMissing(missing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if missing && !l.missing {
		l.orphan()
	}
	l.missing = missing
}

// orphaned tells whether the tenant's credentials are gone.
func (l *link) orphaned() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.missing
}

// setPending tells pods that wait for rules why there are none. Once there are some
// nothing is said: they stay in force.
func (l *link) setPending(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pendingLocked(reason)
}

func (l *link) pendingLocked(reason string) {
	if !l.served {
		l.Feed.SetPending(l.tenant.UID, reason)
	}
}

// outcome records how a list or watch of a kind went.
func (l *link) outcome(kind string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	was := len(l.failing)
	if err == nil {
		delete(l.failing, kind)
	} else {
		l.Metrics.failures.WithLabelValues(string(l.tenant.UID), kind).Inc()
		if l.failing[kind] == "" {
			l.log.Info("Cannot watch in a tenant's cluster", "kind", kind, "reason", err.Error())
		}
		l.failing[kind] = err.Error()
		reason := "its apiserver does not answer"
		if apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) {
			reason = "its apiserver does not let the platform read its " + kind
			poke(l.doubt)
		}
		l.pendingLocked(cut(reason+": "+err.Error(), maxReason))
	}
	if len(l.failing) == 0 && was > 0 {
		l.log.Info("A tenant's cluster can be watched again")
	}
	up := 0.0
	if len(l.failing) == 0 {
		up = 1
	}
	l.Metrics.up.WithLabelValues(string(l.tenant.UID)).Set(up)
}

// reset forgets what was read of the cluster. Rules that were handed on stay in force.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table = compile.NewTable(l.table.Node(), l.table.Ranges())
	clear(l.sliceOf)
	clear(l.synced)
	l.changed, l.gaveUp = false, false
}

// change changes the table and asks for a compilation where that matters. Once ctx
// has ended nothing is changed: a watch with older credentials may outlive them.
func (l *link) change(ctx context.Context, trigger time.Time, f func(*compile.Table) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gaveUp || ctx.Err() != nil || !f(l.table) {
		return
	}
	if l.table.Weight() > compile.MaxWeight {
		l.tooLarge()
		return
	}
	l.changed = true
	if !trigger.IsZero() && (l.trigger.IsZero() || trigger.Before(l.trigger)) {
		l.trigger = trigger
	}
	poke(l.wake)
}

// listed takes in a whole list of a kind.
func (l *link) listed(ctx context.Context, kind string, f func(*compile.Table)) {
	l.change(ctx, time.Time{}, func(t *compile.Table) bool {
		f(t)
		l.synced[kind] = true
		return true
	})
}

// tooLarge gives a cluster up that nothing could be made of, for a while. The caller
// holds the lock.
func (l *link) tooLarge() {
	l.gaveUp = true
	l.log.Info("A tenant's cluster has more services and endpoints than are held: its rules stay as they are")
	l.Metrics.failures.WithLabelValues(string(l.tenant.UID), "size").Inc()
	l.Metrics.up.WithLabelValues(string(l.tenant.UID)).Set(0)
	l.pendingLocked("its cluster has more services and endpoints than can be served")
	poke(l.oversize)
}

func (l *link) setZone(zone string) {
	l.change(context.Background(), time.Time{}, func(t *compile.Table) bool { return t.SetZone(zone) })
}

func (l *link) setRanges(ranges []netip.Prefix) {
	l.change(context.Background(), time.Time{}, func(t *compile.Table) bool { return t.SetRanges(ranges) })
}

// compileAll compiles and hands on when something has changed: at once after a time
// of rest, and once in Debounce while changes go on.
func (l *link) compileAll(ctx context.Context) {
	remind := time.NewTicker(remindInterval)
	defer remind.Stop()
	var begun, ended time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-remind.C:
			l.remind()
			continue
		case <-l.wake:
		}
		rest := max(l.Debounce, restFactor*ended.Sub(begun)) - time.Since(ended)
		if rest > 0 && !sleep(ctx, rest) {
			return
		}
		begun = time.Now()
		l.compile()
		ended = time.Now()
	}
}

// compile hands on what the table makes now, once everything was listed.
func (l *link) compile() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.changed || len(l.synced) < kinds {
		return
	}
	begin := time.Now()
	rules, problems := l.table.Compile()
	trigger := l.trigger
	l.changed, l.trigger = false, time.Time{}
	uid := string(l.tenant.UID)
	l.Metrics.services.WithLabelValues(uid).Set(float64(len(rules)))
	l.Metrics.endpoints.WithLabelValues(uid).Set(float64(l.table.Backends()))
	for _, name := range problems {
		l.report(name)
	}
	l.Metrics.troubled.WithLabelValues(uid).Set(float64(l.table.Troubled()))
	if err := l.Feed.PutRules(l.tenant.UID, slices.Clone(l.table.Ranges()), rules, trigger); err != nil {
		// Nothing that is in a tenant's cluster may lead here.
		l.Metrics.failures.WithLabelValues(uid, "rules").Inc()
		l.log.Error(err, "Compiled rules are not valid")
		l.pendingLocked("its rules could not be compiled")
		return
	}
	l.served = true
	l.Metrics.compile.Observe(time.Since(begin).Seconds())
}

func (l *link) report(name types.NamespacedName) {
	owner, problems := l.table.Problems(name)
	for _, problem := range problems {
		l.reporter.tell(owner, problem)
	}
}

// remind tells again of problems that stay.
func (l *link) remind() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range l.table.Services() {
		l.report(name)
	}
}

func poke(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default: // it has been told already
	}
}

// sleep returns whether the time passed before the context ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// cut shortens a text for people to a number of bytes.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-3], "") + "..."
}
