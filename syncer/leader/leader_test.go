package leader

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lease stands for one in an apiserver. The real one is in the tests of the program.
type lease struct {
	resourcelock.Interface
	holder string
	fails  error
}

func (l *lease) Identity() string { return "me" }

func (l *lease) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	return &resourcelock.LeaderElectionRecord{HolderIdentity: l.holder}, nil, l.fails
}

func (l *lease) Create(ctx context.Context, to resourcelock.LeaderElectionRecord) error {
	return l.Update(ctx, to)
}

func (l *lease) Update(_ context.Context, to resourcelock.LeaderElectionRecord) error {
	if l.fails == nil {
		l.holder = to.HolderIdentity
	}
	return l.fails
}

func TestTerm(t *testing.T) {
	ctx := t.Context()
	mine := resourcelock.LeaderElectionRecord{HolderIdentity: "me"}
	type world struct {
		*Term
		lease *lease
		now   time.Time
	}
	get := func(w *world) { _, _, _ = w.Get(ctx) }
	acquire := func(w *world) { _ = w.Create(ctx, mine) }
	renew := func(w *world) { _ = w.Update(ctx, mine) }
	release := func(w *world) { _ = w.Update(ctx, resourcelock.LeaderElectionRecord{}) }
	pause := func(d time.Duration) func(*world) { return func(w *world) { w.now = w.now.Add(d) } }
	taken := func(w *world) { w.lease.holder = "other" }
	broken := func(w *world) { w.lease.fails = errors.New("no answer") }
	mended := func(w *world) { w.lease.fails = nil }
	for name, tc := range map[string]struct {
		steps       []func(*world)
		leads, lost bool
	}{
		"before the first election":            {},
		"another leads":                        {steps: []func(*world){taken, get}},
		"elected":                              {steps: []func(*world){acquire}, leads: true},
		"elected after another":                {steps: []func(*world){taken, get, renew}, leads: true},
		"an election that failed":              {steps: []func(*world){broken, acquire}},
		"as long as others wait":               {steps: []func(*world){acquire, pause(DefaultTiming.writeUntil())}, leads: true},
		"paused":                               {steps: []func(*world){acquire, pause(DefaultTiming.writeUntil() + 1)}},
		"paused, and renewed":                  {steps: []func(*world){acquire, pause(time.Hour), get, renew}, leads: true},
		"paused, and not renewed":              {steps: []func(*world){acquire, pause(time.Hour), broken, get, renew}},
		"an outage that ends":                  {steps: []func(*world){acquire, broken, pause(time.Second), renew, mended, renew}, leads: true},
		"paused while another took it":         {steps: []func(*world){acquire, pause(time.Hour), taken, get}, lost: true},
		"it never leads again":                 {steps: []func(*world){acquire, taken, get, renew}, lost: true},
		"nor once it has given the lease back": {steps: []func(*world){acquire, release, get, renew}},
	} {
		t.Run(name, func(t *testing.T) {
			lost := 0
			w := &world{lease: &lease{}, now: time.Now()}
			w.Term = newTerm(w.lease, DefaultTiming, func() time.Time { return w.now }, func() { lost++ })
			for _, step := range tc.steps {
				step(w)
			}
			if err := w.Check(); (err == nil) != tc.leads || (err != nil && !errors.Is(err, ErrNotLeading)) {
				t.Errorf("leads: %v", err)
			}
			if (lost == 1) != tc.lost || lost > 1 {
				t.Errorf("was told %d times that the lease is lost", lost)
			}
		})
	}
	if err := (*Term)(nil).Check(); err != nil {
		t.Errorf("one that is alone: %v", err)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestGuard(t *testing.T) {
	term := newTerm(&lease{}, DefaultTiming, time.Now, func() {})
	var made []string
	g := &guard{term: term, next: transport(func(r *http.Request) (*http.Response, error) {
		made = append(made, r.Method)
		return &http.Response{Body: http.NoBody}, nil
	})}
	call := func(method string) error {
		request, err := http.NewRequestWithContext(t.Context(), method, "https://super.example", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := g.RoundTrip(request)
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	}
	if err := errors.Join(call(http.MethodGet), term.Update(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "me"}), call(http.MethodPatch)); err != nil {
		t.Errorf("a leader, or a read: %v", err)
	}
	term.over = true
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if err := call(method); !errors.Is(err, ErrNotLeading) {
			t.Errorf("%s of one that does not lead: %v", method, err)
		}
	}
	if got := strings.Join(made, " "); got != "GET PATCH" {
		t.Errorf("calls: %s", got)
	}
}

// The lease's client has a deadline, which is for no other: it would end watches.
func TestNewLeavesTheConfigAlone(t *testing.T) {
	config := &rest.Config{Host: "https://super.example", UserAgent: "syncer"}
	if _, err := New(config, "default", "syncer", DefaultTiming, func() {}); err != nil {
		t.Fatal(err)
	}
	if config.Timeout != 0 || config.UserAgent != "syncer" || config.QPS != 0 {
		t.Errorf("it is %+v now", config)
	}
}
