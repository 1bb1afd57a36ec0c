package feed

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

// recorder is a Receiver that keeps what it is told, and how it was told rules.
type recorder struct {
	mu        sync.Mutex
	connected int
	pods      map[types.UID]Pod
	complete  bool
	rules     map[types.UID]*ruleset.Set
	pending   map[types.UID]string
	log       []string
	trigger   time.Time
}

func newRecorder() *recorder {
	return &recorder{pods: map[types.UID]Pod{}, rules: map[types.UID]*ruleset.Set{}, pending: map[types.UID]string{}}
}

func (r *recorder) locked(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *recorder) Connected()    { r.locked(func() { r.connected++; clear(r.pods); r.complete = false }) }
func (r *recorder) Disconnected() { r.locked(func() { r.connected-- }) }
func (r *recorder) PutPod(pod Pod) error {
	r.locked(func() { r.pods[pod.UID] = pod })
	return nil
}
func (r *recorder) RemovePod(uid types.UID) { r.locked(func() { delete(r.pods, uid) }) }
func (r *recorder) PodsComplete()           { r.locked(func() { r.complete = true }) }
func (r *recorder) Held() (all []Held) {
	r.locked(func() {
		for tenant, set := range r.rules {
			all = append(all, Held{tenant, set.Generation(), set.Digest()})
		}
	})
	return all
}
func (r *recorder) Rules(tenant types.UID) (set *ruleset.Set) {
	r.locked(func() { set = r.rules[tenant] })
	return set
}
func (r *recorder) PutRules(set *ruleset.Set, delta *ruleset.Delta, trigger time.Time) error {
	r.locked(func() {
		how := "set"
		if delta != nil {
			how = fmt.Sprintf("delta of %d from %d", delta.Size(), delta.From)
		}
		r.log = append(r.log, fmt.Sprintf("%s %d: %s", set.Tenant(), set.Generation(), how))
		r.rules[set.Tenant()], r.trigger = set, trigger
	})
	return nil
}
func (r *recorder) SetPending(tenant types.UID, reason string) error {
	r.locked(func() { r.pending[tenant] = reason })
	return nil
}
func (r *recorder) Forget(tenant types.UID) { r.locked(func() { delete(r.rules, tenant) }) }

func (r *recorder) told() (log []string) {
	r.locked(func() { log = slices.Clone(r.log) })
	return log
}

// serve runs a server at the socket until the test or stop ends it.
func serve(t *testing.T, socket string, receiver Receiver) (server *Server, stop func()) {
	t.Helper()
	listener, err := unixsocket.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	metrics := func() ([]byte, error) { return []byte("up 1\n"), nil }
	server = NewServer(receiver, metrics, uint32(os.Getuid()), testr.New(t))
	return server, run(t, func(ctx context.Context) error { return server.Serve(ctx, listener) })
}

// connect runs a client until the test or stop ends it.
func connect(t *testing.T, socket string) (client *Client, stop func()) {
	t.Helper()
	client = NewClient(socket, testr.New(t))
	return client, run(t, client.Run)
}

func run(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func socketIn(t *testing.T) string { return filepath.Join(t.TempDir(), "feed.sock") }

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

var ranges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}

// services makes n services with one endpoint each, on the given port.
func services(n int, port uint16) []ruleset.Service {
	var all []ruleset.Service
	for i := range n {
		all = append(all, ruleset.Service{
			Key:       ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).Next(), Protocol: ruleset.TCP, Port: 80},
			Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port)},
		})
	}
	return all
}

func put(t *testing.T, client *Client, tenant types.UID, all []ruleset.Service) ruleset.Digest {
	t.Helper()
	set, err := ruleset.New(tenant, 1, slices.Clone(ranges), slices.Clone(all))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.PutRules(tenant, slices.Clone(ranges), slices.Clone(all), time.Time{}); err != nil {
		t.Fatal(err)
	}
	return set.Digest()
}

func holds(receiver *recorder, tenant types.UID, digest ruleset.Digest) func() bool {
	return func() bool {
		set := receiver.Rules(tenant)
		return set != nil && set.Digest() == digest
	}
}

// rawClient dials without a Client, for what a Client does not say.
func rawClient(t *testing.T, socket string) net.Conn {
	t.Helper()
	conn, err := unixsocket.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func counted(log []string, part string) (n int) {
	for _, line := range log {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}
