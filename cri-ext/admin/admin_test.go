package admin

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"

	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

func key(t *testing.T, text string) ruleset.Key {
	t.Helper()
	k, err := ParseFrontend(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func service(t *testing.T, text string, endpoints ...string) ruleset.Service {
	t.Helper()
	s := ruleset.Service{Key: key(t, text)}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, netip.MustParseAddrPort(e))
	}
	return s
}

func TestParseFrontend(t *testing.T) {
	for text, want := range map[string]string{
		"10.96.0.10:53/udp": "10.96.0.10:53/UDP", "10.96.0.10:53": "10.96.0.10:53/TCP", "[fd00::1]:80/SCTP": "[fd00::1]:80/SCTP",
		"[::ffff:10.0.0.1]:1": "10.0.0.1:1/TCP",
		"10.96.0.10":          "", "": "", "web:80": "", "10.96.0.10:53/icmp": "", "10.96.0.10:99999": "", "[fe80::1%eth0]:1": "", "10.96.0.10:53/": "",
	} {
		got, err := ParseFrontend(text)
		if want == "" && err == nil || want != "" && (err != nil || got.String() != want) {
			t.Errorf("%q is %s, %v; want %q", text, got, err, want)
		}
	}
}

func FuzzParseFrontend(f *testing.F) {
	f.Add("10.96.0.10:53/udp")
	f.Add("[fd00::1]:80")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := ParseFrontend(text); err == nil {
			if again, err := ParseFrontend(k.String()); err != nil || again != k {
				t.Errorf("%q is %s, and that is %s, %v", text, k, again, err)
			}
		}
	})
}

func TestExplain(t *testing.T) {
	affine := service(t, "10.96.0.3:80", "10.0.0.1:8080")
	affine.Affinity = 60
	set, err := ruleset.New("a", 4, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, []ruleset.Service{
		service(t, "10.96.0.1:80", "10.0.0.1:8080", "10.0.0.2:8080"), service(t, "10.96.0.2:80"), affine, service(t, "192.0.2.7:30080", "10.0.0.1:8080"),
	})
	if err != nil {
		t.Fatal(err)
	}
	current := sandbox.View{State: sandbox.Current, Generation: 4, Wanted: 4}
	for _, test := range []struct {
		frontend, outcome, why string
		endpoints              int
		set                    *ruleset.Set
		view                   sandbox.View
	}{
		{"10.96.0.1:80", Translated, "one of the endpoints", 2, set, current},
		{"10.96.0.3:80", Translated, "session affinity", 1, set, current},
		{"10.96.0.2:80", Refused, "no endpoint", 0, set, current},
		{"10.96.0.1:81", Refused, "it has 80/TCP", 0, set, current},
		{"10.96.0.1:80/udp", Refused, "it has 80/TCP", 0, set, current},
		{"10.96.9.9:80", Refused, "no service has it", 0, set, current},
		{"192.0.2.7:22", Untouched, "it has 30080/TCP", 0, set, current},
		{"8.8.8.8:53", Untouched, "outside of the networks", 0, set, current},
		{"10.96.0.1:80", Untouched, "Exempt, of the control plane", 0, nil, sandbox.View{State: sandbox.Exempt, Reason: "of the control plane"}},
		{"10.96.0.1:80", Translated, "holds generation 3: Failing it hangs", 2, set, sandbox.View{State: sandbox.Failing, Generation: 3, Wanted: 4, Error: "it hangs"}},
	} {
		got := explain(test.set, test.view, key(t, test.frontend))
		endpoints := 0
		if got.Service != nil {
			endpoints = len(got.Service.Endpoints)
		}
		if got.Outcome != test.outcome || !strings.Contains(got.Why, test.why) || endpoints != test.endpoints {
			t.Errorf("%s: %s, %q, %d endpoints; want %s, %q, %d", test.frontend, got.Outcome, got.Why, endpoints, test.outcome, test.why, test.endpoints)
		}
	}
}

func TestCompare(t *testing.T) {
	a, b, c := service(t, "10.96.0.1:80", "10.0.0.1:1"), service(t, "10.96.0.2:80", "10.0.0.1:1"), service(t, "10.96.0.3:80")
	changed := service(t, "10.96.0.2:80", "10.0.0.1:1", "10.0.0.2:1")
	for _, test := range []struct {
		wanted, live []ruleset.Service
		want         string
	}{
		{nil, nil, ""},
		{[]ruleset.Service{a, b}, []ruleset.Service{a, b}, ""},
		{[]ruleset.Service{a, b}, []ruleset.Service{changed, c}, "missing 10.96.0.1, different 10.96.0.2, unexpected 10.96.0.3"},
		{[]ruleset.Service{c}, nil, "missing 10.96.0.3"},
		{nil, []ruleset.Service{c}, "unexpected 10.96.0.3"},
	} {
		var got []string
		for _, d := range compare(test.wanted, test.live) {
			at := d.Wanted
			if at == nil {
				at = d.Live
			}
			got = append(got, d.What+" "+at.Address.String())
		}
		if diff := cmp.Diff(test.want, strings.Join(got, ", ")); diff != "" {
			t.Error(diff)
		}
	}
}

func TestOthersMayNotAsk(t *testing.T) {
	for uid, want := range map[int]string{os.Getuid(): "", os.Getuid() + 1: "only user"} {
		socket := filepath.Join(t.TempDir(), "s")
		listener, err := unixsocket.Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		server := &Server{
			Registry: sandbox.New(sandbox.Options{Log: logr.Discard()}), UID: uint32(uid), Log: logr.Discard(),
			Status:  func(context.Context) Status { return Status{Version: "v"} },
			Metrics: func() ([]byte, error) { return []byte("up 1\n"), nil },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- server.Serve(ctx, listener) }()
		var status Status
		err = NewClient(socket).Get(t.Context(), "/status", nil, &status)
		if want == "" && (err != nil || status.Version != "v") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("user %d: %+v, %v; want %q", uid, status, err, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := NewClient(filepath.Join(t.TempDir(), "none")).Get(t.Context(), "/status", nil, nil); err == nil || !strings.Contains(err.Error(), "is it running") {
		t.Errorf("a cri-ext that is not there: %v", err)
	}
}
