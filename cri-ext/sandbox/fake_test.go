package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// world is a container runtime and the insides of its sandboxes. It outlives any
// Registry.
type world struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	conn *grpc.ClientConn

	mu     sync.Mutex
	guests map[string]*guest
	// violations are rules that reached a sandbox of another tenant.
	violations []string
	// faults is how many of 100 uses of a channel fail.
	faults int
	random *rand.Rand
	sent   map[string]int
}

// guest is the inside of one sandbox.
type guest struct {
	cri.Sandbox
	// owner is the tenant that it truly is of, whatever anybody says.
	owner      types.UID
	ready      bool
	host       bool
	containers map[string]bool
	held       *ruleset.Set
	// hook, where it is set, is called by Send and may fail or block.
	hook func(ctx context.Context, set *ruleset.Set) error
	// hello, where it is set, is called by Hello.
	hello func(ctx context.Context) error
	// leads is the recipient that the channel claims, if not the right one.
	leads *ruleset.Recipient
	// deltas and wholes are how often each came.
	deltas, wholes, repairs int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{guests: map[string]*guest{}, random: rand.New(rand.NewPCG(1, 2)), sent: map[string]int{}}
	socket := filepath.Join(t.TempDir(), "cri")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, w)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	if w.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.conn.Close() })
	return w
}

func (w *world) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// add makes a sandbox of a pod, with one container of the name c-ID.
func (w *world) add(id string, pod feed.Pod) cri.Sandbox {
	s := cri.Sandbox{ID: id, UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name}
	w.locked(func() {
		w.guests[id] = &guest{Sandbox: s, owner: pod.Tenant, ready: true, containers: map[string]bool{"c-" + id: true}}
	})
	return s
}

func (w *world) guest(id string, f func(*guest)) { w.locked(func() { f(w.guests[id]) }) }

func (w *world) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	response := &runtimeapi.ListPodSandboxResponse{}
	w.locked(func() {
		for _, g := range w.guests {
			state := runtimeapi.PodSandboxState_SANDBOX_READY
			if !g.ready {
				state = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			}
			response.Items = append(response.Items, &runtimeapi.PodSandbox{Id: g.ID, State: state, CreatedAt: 1, Metadata: g.metadata()})
		}
	})
	return response, nil
}

func (g *guest) metadata() *runtimeapi.PodSandboxMetadata {
	return &runtimeapi.PodSandboxMetadata{Name: g.Name, Namespace: g.Namespace, Uid: string(g.UID)}
}

func (w *world) ListContainers(_ context.Context, in *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	response := &runtimeapi.ListContainersResponse{}
	w.locked(func() {
		for _, g := range w.guests {
			for id := range g.containers {
				if strings.HasPrefix(id, in.GetFilter().GetId()) {
					response.Containers = append(response.Containers, &runtimeapi.Container{Id: id, PodSandboxId: g.ID})
				}
			}
		}
	})
	return response, nil
}

func (w *world) PodSandboxStatus(_ context.Context, in *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[in.GetPodSandboxId()]
	if g == nil {
		return nil, status.Errorf(codes.NotFound, "no sandbox %s", in.GetPodSandboxId())
	}
	network, state := runtimeapi.NamespaceMode_POD, runtimeapi.PodSandboxState_SANDBOX_READY
	if g.host {
		network = runtimeapi.NamespaceMode_NODE
	}
	if !g.ready {
		state = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{
		Id: g.ID, Metadata: g.metadata(), State: state,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{Network: network}}},
	}}, nil
}

// way is a channel.Channel that records what comes through it.
type way struct {
	world     *world
	recipient ruleset.Recipient
	// last is what the sandbox said or was sent last.
	last *ruleset.Set
}

func (w *world) open(recipient ruleset.Recipient, _ cri.Status) (channel.Channel, error) {
	return &way{world: w, recipient: recipient}, nil
}

var errFault = errors.New("a fault")

func (c *way) Recipient() (recipient ruleset.Recipient) {
	recipient = c.recipient
	c.world.guest(c.recipient.Sandbox, func(g *guest) {
		if g != nil && g.leads != nil {
			recipient = *g.leads
		}
	})
	return recipient
}

// reach finds the guest, unless there is a fault.
func (c *way) reach() (*guest, error) {
	g := c.world.guests[c.recipient.Sandbox]
	if g == nil || !g.ready {
		return nil, errors.New("the sandbox is gone")
	}
	if c.world.random.IntN(100) < c.world.faults {
		return nil, errFault
	}
	return g, nil
}

func (c *way) Hello(ctx context.Context) (hello channel.Hello, err error) {
	var hook func(context.Context) error
	c.world.guest(c.recipient.Sandbox, func(g *guest) {
		if g != nil {
			hook = g.hello
		}
	})
	if hook != nil {
		if err := hook(ctx); err != nil {
			return hello, err
		}
	}
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	g, err := c.reach()
	if err != nil {
		return hello, err
	}
	hello.Backends = []channel.Backend{{Family: "IPv4", Engine: "nftables"}}
	if c.last = g.held; g.held != nil {
		hello.Generation, hello.Digest = g.held.Generation(), g.held.Digest()
	}
	return hello, nil
}

func (c *way) Send(ctx context.Context, rules ruleset.Granted) (ack channel.Ack, err error) {
	set, delta, err := rules.For(c.recipient)
	if err != nil {
		return ack, err
	}
	var hook func(context.Context, *ruleset.Set) error
	c.world.guest(c.recipient.Sandbox, func(g *guest) {
		if g != nil {
			hook = g.hook
			c.world.sent[g.ID]++
			if set.Tenant() != g.owner {
				c.world.violations = append(c.world.violations, fmt.Sprintf("rules of %s to sandbox %s of %s", set.Tenant(), g.ID, g.owner))
			}
		}
	})
	if hook != nil {
		if err := hook(ctx, set); err != nil {
			return ack, err
		}
	}
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	g, err := c.reach()
	if err != nil {
		return ack, err
	}
	ack = channel.Ack{Generation: set.Generation(), Digest: set.Digest()}
	// As channels do: the whole set where the delta does not start from what is held.
	if delta != nil && (g.held == nil || g.held.Generation() != delta.From) {
		delta = nil
	}
	g.held, ack.Delta = c.applied(g, set, delta), delta != nil
	c.last = g.held
	// The answer may get lost.
	if _, err := c.reach(); err != nil {
		return channel.Ack{}, err
	}
	return ack, nil
}

// applied is what a sandbox holds afterwards. A delta that does not fit is a defect of
// ours.
func (c *way) applied(g *guest, set *ruleset.Set, delta *ruleset.Delta) *ruleset.Set {
	if delta == nil {
		g.wholes++
		return set
	}
	g.deltas++
	after, err := g.held.Apply(delta)
	if err != nil || after.Digest() != set.Digest() {
		c.world.violations = append(c.world.violations, fmt.Sprintf("a delta that does not fit: %v", err))
	}
	return after
}

func (c *way) Dump(context.Context) ([]ruleset.Service, error) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	g, err := c.reach()
	if err != nil || g.held == nil {
		return nil, err
	}
	return g.held.Services(), nil
}

func (c *way) Repair(context.Context) (int, error) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	g, err := c.reach()
	if err != nil {
		return 0, err
	}
	g.repairs++
	if g.held != c.last {
		return 0, errors.New("the sandbox does not hold what it was sent last")
	}
	return 0, nil
}

func (c *way) Close() error { return nil }

// stand is a Registry in a world, with the reports it made.
type stand struct {
	*Registry
	world *world
	stop  func()

	mu      sync.Mutex
	reports []feed.Report
}

func newStand(t *testing.T, w *world, change func(*Options)) *stand {
	t.Helper()
	s := &stand{world: w}
	options := Options{
		Runtime: cri.NewRuntime(w.conn), Open: w.open, Gate: true, GateTimeout: time.Minute, RepairInterval: time.Hour, PatrolInterval: time.Hour,
		Report: func(r feed.Report) { s.mu.Lock(); defer s.mu.Unlock(); s.reports = append(s.reports, r) },
		Log:    logr.Discard(),
	}
	if change != nil {
		change(&options)
	}
	s.Registry = New(options)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(s.stop)
	return s
}

// feeder says the usual: a pod, and that this is all.
func (s *stand) feeder(t *testing.T, pods ...feed.Pod) {
	t.Helper()
	s.records.Connected()
	for _, pod := range pods {
		if err := s.records.PutPod(pod); err != nil {
			t.Fatal(err)
		}
	}
	s.records.PodsComplete()
}

func (s *stand) reported(reason string) (found []feed.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.reports {
		if r.Reason == reason {
			found = append(found, r)
		}
	}
	return found
}

func (s *stand) state(id string) State {
	view, err := s.Show(id)
	if err != nil {
		return ""
	}
	return view.State
}

func (s *stand) put(t *testing.T, set *ruleset.Set) {
	t.Helper()
	held := s.records.Rules(set.Tenant())
	var delta *ruleset.Delta
	if held != nil {
		var err error
		if delta, err = ruleset.Diff(held, set); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.records.PutRules(set, delta, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// rules makes a set of n services.
func rules(t *testing.T, tenant types.UID, generation uint64, n int) *ruleset.Set {
	t.Helper()
	var services []ruleset.Service
	for i := range n {
		services = append(services, ruleset.Service{
			Key:       ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i + 1)}), Protocol: ruleset.TCP, Port: 80},
			Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), 1+uint16(generation%60000))},
		})
	}
	set, err := ruleset.New(tenant, generation, nil, services)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// becauseOf waits until the gate of a sandbox would say why.
func (s *stand) becauseOf(t *testing.T, id, why string) {
	t.Helper()
	eventually(t, "the gate to be closed because of "+why, func() bool {
		found, err := s.find(t.Context(), id)
		if err != nil || found == nil {
			return false
		}
		var required *ruleset.Set
		return strings.Contains(s.verdict(found, &required).why, why)
	})
}

func podOf(tenant types.UID, n int) feed.Pod {
	return feed.Pod{UID: types.UID(fmt.Sprintf("uid-%s-%d", tenant, n)), Namespace: fmt.Sprintf("vc-%s-default", tenant), Name: fmt.Sprintf("web-%d", n), Tenant: tenant}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
