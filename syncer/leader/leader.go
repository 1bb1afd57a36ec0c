// Package leader elects the one replica of the syncer that works, and keeps a replica
// that does not lead any more from writing.
//
// The election alone does not: client-go's elector goes on for its whole deadline after it has
// seen that another holds the lease, and a process that was paused goes on in the middle of
// what it was doing. So each write is held against the clock: it is made only while no other
// replica can hold the lease.
package leader

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Timing of the election.
type Timing struct {
	// Duration of the lease: how long after its last renewal another may take it.
	Duration time.Duration
	// RenewDeadline is how long a leader goes on that cannot renew its lease.
	RenewDeadline time.Duration
	// RetryPeriod is how often the lease is renewed, and looked at by those that stand
	// by, at intervals of up to 2.2 times as much.
	RetryPeriod time.Duration
}

// DefaultTiming outlives what an apiserver under load, or its etcd, may stall; one that is
// away for longer has nothing for a leader to do.
var DefaultTiming = Timing{Duration: 10 * time.Second, RenewDeadline: 8 * time.Second, RetryPeriod: 750 * time.Millisecond}

// writeUntil is how long after it asked for the last renewal a leader writes: longer
// than the elector goes on by itself, and short enough for a write to arrive before
// another leads.
func (t Timing) writeUntil() time.Duration { return (t.Duration + t.RenewDeadline) / 2 }

// namespaceFile holds the namespace of the pod that this is.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// ErrNotLeading says that a write was not made, because another may lead.
var ErrNotLeading = errors.New("this replica does not lead, or has not renewed its lease in time")

// Term is the time for which this replica leads. It is a lock for an elector, and
// learns from what the elector does with it.
type Term struct {
	resourcelock.Interface
	timing Timing
	now    func() time.Time
	lost   func()

	mu sync.Mutex
	// renewed is when the last renewal that went well was asked for; zero if this replica
	// has not led yet.
	renewed time.Time
	// over: it has led, and never will again.
	over bool
}

// New makes a Term with a Lease of that name; an empty namespace is the one of the
// pod that this is. lost is called when another replica has taken the lease from
// this one; it should end the process.
func New(config *rest.Config, namespace, name string, timing Timing, lost func()) (*Term, error) {
	if namespace == "" {
		content, err := os.ReadFile(namespaceFile)
		if err != nil {
			return nil, fmt.Errorf("finding the namespace of the lease, which --leader-elect-namespace gives outside of a cluster: %w", err)
		}
		namespace = strings.TrimSpace(string(content))
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("naming this replica: %w", err)
	}
	config = rest.AddUserAgent(rest.CopyConfig(config), "leader-election")
	config.Timeout = timing.RenewDeadline / 2 // one lost call does not cost the lease
	// The lease has a connection and a limit of its own: no other call delays it.
	config.QPS = -1
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for the lease: %w", err)
	}
	events := record.NewBroadcaster()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clients.CoreV1().Events(namespace)})
	recorder := events.NewRecorder(clientgoscheme.Scheme, corev1.EventSource{Component: name, Host: host})
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, namespace, name, clients.CoreV1(), clients.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID()), EventRecorder: recorder})
	if err != nil {
		return nil, fmt.Errorf("making the lease: %w", err)
	}
	return newTerm(lock, timing, time.Now, lost), nil
}

func newTerm(lock resourcelock.Interface, timing Timing, now func() time.Time, lost func()) *Term {
	return &Term{Interface: lock, timing: timing, now: now, lost: lost}
}

// Get implements resourcelock.Interface.
func (t *Term) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	lease, raw, err := t.Interface.Get(ctx)
	if err == nil && lease.HolderIdentity != t.Identity() {
		t.end()
	}
	return lease, raw, err
}

// Create implements resourcelock.Interface.
func (t *Term) Create(ctx context.Context, lease resourcelock.LeaderElectionRecord) error {
	return t.renew(lease, func() error { return t.Interface.Create(ctx, lease) })
}

// Update implements resourcelock.Interface.
func (t *Term) Update(ctx context.Context, lease resourcelock.LeaderElectionRecord) error {
	if lease.HolderIdentity != t.Identity() {
		// It is given back, after all work has ended.
		t.mu.Lock()
		t.over = true
		t.mu.Unlock()
	}
	return t.renew(lease, func() error { return t.Interface.Update(ctx, lease) })
}

func (t *Term) renew(lease resourcelock.LeaderElectionRecord, write func() error) error {
	// Others count from when they see the renewal, which is later than this.
	asked := t.now()
	if err := write(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if lease.HolderIdentity == t.Identity() && !t.over {
		t.renewed = asked
	}
	return nil
}

// end ends the term of a replica that has led.
func (t *Term) end() {
	t.mu.Lock()
	ends := !t.renewed.IsZero() && !t.over
	t.over = t.over || ends
	t.mu.Unlock()
	if ends {
		t.lost()
	}
}

// Check returns ErrNotLeading unless no other replica can lead now. A nil Term, of a
// syncer that is alone, never ends.
func (t *Term) Check() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.renewed.IsZero() || t.now().Sub(t.renewed) > t.timing.writeUntil() {
		return ErrNotLeading
	}
	return nil
}

// NewClient is a client.NewClientFunc of clients that write only in this term.
func (t *Term) NewClient(config *rest.Config, options client.Options) (client.Client, error) {
	if t != nil {
		guarded := *options.HTTPClient
		guarded.Transport = &guard{term: t, next: guarded.Transport}
		options.HTTPClient = &guarded
	}
	return client.New(config, options)
}

// guard refuses writes out of term.
type guard struct {
	term *Term
	next http.RoundTripper
}

func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Method != http.MethodGet {
		if err := g.term.Check(); err != nil {
			if request.Body != nil {
				_ = request.Body.Close() // which a RoundTripper always does
			}
			return nil, err
		}
	}
	return g.next.RoundTrip(request)
}
