package tenants

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/tenant-proxy/compile"
)

// feed keeps what it is told.
type feed struct {
	mu      sync.Mutex
	puts    []int
	pending string
}

func (f *feed) PutRules(_ types.UID, _ []netip.Prefix, services []ruleset.Service, _ time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.puts = append(f.puts, len(services))
	return nil
}

func (f *feed) SetPending(_ types.UID, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = reason
}

func (f *feed) Forget(types.UID) {}

func testLink() (*link, *feed) {
	f := &feed{}
	o := &Options{
		Node: "node-1", Feed: f, Linger: time.Hour, Resync: time.Hour, Debounce: time.Millisecond, Log: logr.Discard(), Metrics: NewMetrics(),
		Credentials: func(context.Context, tenancy.Tenant) (Credentials, error) { return Credentials{}, errors.New("none") },
	}
	l := newLink(o, tenancy.Tenant{UID: "tenant", Namespace: "team", Name: "demo"}, compile.Node{Name: "node-1"})
	l.orphan = func() {}
	return l, f
}

func service(i int) *compile.Service {
	return compile.NewService(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: fmt.Sprint("s", i), UID: types.UID(fmt.Sprint(i))},
		Spec:       corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.96.0.%d", i), Ports: []corev1.ServicePort{{Port: 80}}},
	})
}

// Nothing is handed on before everything was listed: rules that lack what was not
// read yet would break connections.
func TestNothingBeforeAllIsListed(t *testing.T) {
	l, f := testLink()
	l.setRanges([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")})
	for _, kind := range []string{"services", "endpointslices"} {
		l.listed(t.Context(), kind, func(table *compile.Table) { table.PutService(service(1)) })
		l.compile()
	}
	if len(f.puts) != 0 {
		t.Fatalf("handed on %v", f.puts)
	}
	l.listed(t.Context(), "nodes", func(*compile.Table) {})
	l.compile()
	l.compile() // nothing has changed
	if diff := cmp.Diff([]int{1}, f.puts); diff != "" {
		t.Error(diff)
	}
}

// A watch that was stopped changes nothing any more.
func TestAStoppedWatchIsNotHeard(t *testing.T) {
	l, _ := testLink()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.change(ctx, time.Time{}, func(table *compile.Table) bool { return table.PutService(service(1)) })
	l.listed(ctx, "services", func(table *compile.Table) { table.PutService(service(1)) })
	if len(l.table.Services()) != 0 || l.changed || len(l.synced) != 0 {
		t.Error("it was heard")
	}
}

// A cluster that is too large is given up, and rules that were handed on stay.
func TestTooLargeCluster(t *testing.T) {
	l, f := testLink()
	big := &compile.Slice{Name: "big", Endpoints: make([]compile.Endpoint, compile.MaxWeight/8)}
	put := func(i int) {
		l.change(t.Context(), time.Time{}, func(table *compile.Table) bool {
			table.PutService(service(i))
			return table.PutSlice(types.NamespacedName{Namespace: "web", Name: fmt.Sprint("s", i)}, big)
		})
	}
	for i := range 7 {
		put(i)
	}
	select {
	case <-l.oversize:
		t.Fatal("given up too early")
	default:
	}
	put(8)
	select {
	case <-l.oversize:
	default:
		t.Fatal("not given up")
	}
	if !strings.Contains(f.pending, "more services and endpoints") {
		t.Errorf("pods are told %q", f.pending)
	}
	l.reset()
	if l.table.Weight() != 0 || len(l.synced) != 0 {
		t.Error("it is held still")
	}
	put(1)
	l.compile()
	if len(f.puts) != 0 {
		t.Errorf("part of the cluster was handed on: %v", f.puts)
	}
}

// A list is given up before it is whole.
func TestTooLargeList(t *testing.T) {
	full := 0
	s := &store[*corev1.Service]{trim: func(*corev1.Service) {}, full: func() { full++ }}
	ports := &corev1.Service{Spec: corev1.ServiceSpec{Ports: make([]corev1.ServicePort, compile.MaxWeight/4)}}
	for range 8 {
		if _, err := s.Transformer()(ports); err != nil {
			t.Fatal(err)
		}
	}
	if full != 1 {
		t.Errorf("told %d times", full)
	}
}

func TestParseRanges(t *testing.T) {
	for text, want := range map[string]string{
		"10.96.0.0/16":                "[10.96.0.0/16]",
		"10.96.0.7/16, fd00:10::/112": "[10.96.0.0/16 fd00:10::/112]",
		"":                            "",
		"10.96.0.0":                   "",
		"10.0.0.0/8,":                 "",
		strings.Repeat("10.0.0.0/8,", 16) + "10.0.0.0/8": "",
	} {
		got, err := parseRanges(text)
		if (err == nil) != (want != "") || (err == nil && fmt.Sprint(got) != want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
