package kubeletapi

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// statusOf is the HTTP status of a refusal, 0 for anything else.
func statusOf(err error) int {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal.Status
	}
	return 0
}

func TestParseTarget(t *testing.T) {
	long := strings.Repeat("n", 63)
	for path, want := range map[string]Target{
		"/containerLogs/web/front/app":                {Endpoint: Logs, Namespace: "web", Pod: "front", Container: "app"},
		"/containerLogs/" + long + "/front.x/" + long: {Endpoint: Logs, Namespace: long, Pod: "front.x", Container: long},
		"/exec/web/front/app":                         {Endpoint: Exec, Namespace: "web", Pod: "front", Container: "app"},
		"/exec/web/front/1f-2e/app":                   {Endpoint: Exec, Namespace: "web", Pod: "front", UID: "1f-2e", Container: "app"},
		"/attach/web/front/app":                       {Endpoint: Attach, Namespace: "web", Pod: "front", Container: "app"},
		"/run/web/front/app":                          {Endpoint: Run, Namespace: "web", Pod: "front", Container: "app"},
		"/portForward/web/front":                      {Endpoint: PortForward, Namespace: "web", Pod: "front"},
		"/portForward/web/front/1f-2e":                {Endpoint: PortForward, Namespace: "web", Pod: "front", UID: "1f-2e"},
		"/stats/summary":                              {Endpoint: Summary},
		"/metrics/resource":                           {Endpoint: Resource},
		"/healthz":                                    {Endpoint: Health},
	} {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseTarget(u)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
}

// The ancestor passed what it did not know: the pods of all tenants, the node's
// log files.
func TestEndpointsOfTheWholeNodeAreNotServed(t *testing.T) {
	for _, path := range []string{
		"/", "/pods", "/pods/", "/runningpods/", "/logs/", "/logs/messages", "/configz", "/flagz", "/statusz", "/spec/", "/metrics", "/metrics/",
		"/metrics/cadvisor", "/metrics/probes", "/metrics/resource/v1alpha1", "/metrics/resource/", "/stats", "/stats/", "/stats/container", "/stats/web/front/app",
		"/debug/pprof/", "/debug/flags/v", "/checkpoint/web/front/app", "/cri/exec/token", "/healthz/ping", "/healthz/syncloop", "/api/v1/pods",
		"/containerlogs/web/front/app", "/Exec/web/front/app", "/portforward/web/front",
	} {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseTarget(u); statusOf(err) != http.StatusNotFound {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
}

func TestPathsThatCouldBeReadInTwoWaysAreRefused(t *testing.T) {
	for _, path := range []string{
		"/containerLogs/web/front/..", "/containerLogs/web/../front", "/containerLogs/../pods", "/containerLogs/web/./app",
		"/containerLogs/web%2Ffront/front/app", "/containerLogs/web/front/app%2F..", "/containerLogs/web/front/%61pp", "/containerLogs/web/front/app%00",
		"/containerLogs/%2e%2e/%2e%2e/pods", "/containerLogs//front/app", "/containerLogs/web/front/", "/containerLogs/web/front/app/", "//containerLogs/web/front/app",
		"/containerLogs/web/front", "/containerLogs/web/front/uid/app", "/exec/web/front", "/exec/web/front/uid/app/more", "/portForward/web", "/portForward/web/front/uid/x",
		"/containerLogs/Web/front/app", "/containerLogs/web/Front/app", "/containerLogs/web/front/App", "/containerLogs/web/front/a p", "/containerLogs/web/front/a;b", "/containerLogs/we.b/front/app",
		"/containerLogs/web/front/" + strings.Repeat("a", 64), "/exec/web/front/ui d/app", "/exec/web/front//app", "/exec/web/front/u_d/app", "/portForward/web/front/",
		"/portForward/web/front/" + strings.Repeat("a", maxUID+1), "/stats/../pods", "/metrics%2Fresource",
	} {
		u, err := url.ParseRequestURI(strings.ReplaceAll(path, " ", "%20"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseTarget(u)
		if status := statusOf(err); err == nil || status != http.StatusBadRequest && status != http.StatusNotFound {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
}

// The ancestor spliced names where the syncer hashed them, so that logs and exec
// broke for long namespaces.
func TestUpstreamPathsHaveTheSyncersNames(t *testing.T) {
	tenant := tenancy.Tenant{UID: "vc-uid", Namespace: "team", Name: strings.Repeat("v", 63)}
	super := types.NamespacedName{Namespace: tenant.SuperNamespace(strings.Repeat("n", 63)), Name: "front"}
	if len(super.Namespace) > 63 {
		t.Fatalf("namespace %s", super.Namespace)
	}
	for _, tc := range []struct {
		target Target
		want   string
	}{
		{Target{Endpoint: Logs, Namespace: "x", Pod: "front", Container: "app"}, "/containerLogs/" + super.Namespace + "/front/app"},
		{Target{Endpoint: Exec, Namespace: "x", Pod: "front", UID: "tenant-uid", Container: "app"}, "/exec/" + super.Namespace + "/front/super-uid/app"},
		{Target{Endpoint: PortForward, Namespace: "x", Pod: "front"}, "/portForward/" + super.Namespace + "/front"},
		{Target{Endpoint: PortForward, Namespace: "x", Pod: "front", UID: "tenant-uid"}, "/portForward/" + super.Namespace + "/front/super-uid"},
	} {
		if got := tc.target.Upstream(super, "super-uid"); got != tc.want {
			t.Errorf("%s, not %s", got, tc.want)
		}
	}
}

// The ancestor wrote tty=0 as stdout=false and dropped the ports of a port-forward.
func TestQueriesPassFaithfully(t *testing.T) {
	for _, tc := range []struct {
		endpoint Endpoint
		query    string
	}{
		{Exec, "command=sh&command=-c&command=echo+%26+%3D+%22x%22&error=1&input=1&output=1&tty=0"},
		{Exec, "command=&output=true&tty=false"},
		{Attach, "error=1&input=1&output=1&tty=1"},
		{PortForward, "port=80%2C443"},
		{PortForward, "port=80&port=443"},
		{Logs, "follow=true&limitBytes=10&previous=true&sinceSeconds=5&sinceTime=2024-01-02T03%3A04%3A05Z&stream=Stderr&tailLines=3&timestamps=true"},
		{Run, "cmd=ls+-l"},
		{Summary, "only_cpu_and_memory=true"},
		{Resource, ""},
	} {
		values, err := tc.endpoint.ParseQuery(tc.query)
		if err != nil {
			t.Errorf("%s?%s: %v", tc.endpoint, tc.query, err)
			continue
		}
		if diff := cmp.Diff(tc.query, values.Encode()); diff != "" {
			t.Errorf("%s: %s", tc.endpoint, diff)
		}
	}
	for e, query := range map[Endpoint]string{
		Logs: "insecureSkipTLSVerifyBackend=true", Exec: "container=other", Attach: "command=sh",
		PortForward: "ports=80", Summary: "format=text", Resource: "name[]=x", Health: "verbose", Run: "cmd=ls;x",
	} {
		if _, err := e.ParseQuery(query); statusOf(err) != http.StatusBadRequest {
			t.Errorf("%s?%s: %v", e, query, err)
		}
	}
}

func TestMethods(t *testing.T) {
	for e := range endpoints {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodConnect, "get"} {
			want := method == http.MethodGet && e != Run ||
				method == http.MethodPost && (e == Exec || e == Attach || e == PortForward || e == Run)
			if err := e.CheckMethod(method); (err == nil) != want || err != nil && statusOf(err) != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %v", method, e, err)
			}
		}
	}
}

func TestStays(t *testing.T) {
	for query, want := range map[string]bool{"": false, "follow=true": true, "follow=1": true, "follow": true, "follow=false": false, "follow=False": false, "follow=0": false, "tailLines=1": false} {
		values, err := Logs.ParseQuery(query)
		if err != nil || Logs.Stays(values) != want {
			t.Errorf("%q: %v, %v", query, !want, err)
		}
	}
}

// Whatever path comes in, what goes to the kubelet is one of four forms with the
// super pod's names, and nothing of what the client wrote but the container.
func FuzzParseTarget(f *testing.F) {
	for _, path := range []string{"/containerLogs/web/front/app", "/exec/web/front/uid/app", "/portForward/a/b", "/containerLogs/../../pods", "/exec/a/b%2f/c", "/stats/summary", "/pods", "//", "/run/a/b/\x00"} {
		f.Add(path)
	}
	super := types.NamespacedName{Namespace: "super-namespace", Name: "super-pod"}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		parsed, err := ParseTarget(u)
		if err != nil {
			if status := statusOf(err); status != http.StatusBadRequest && status != http.StatusNotFound {
				t.Fatalf("%q: %v", path, err)
			}
			return
		}
		if endpoints[parsed.Endpoint].path == noPod {
			if u.Path != "/"+string(parsed.Endpoint) {
				t.Fatalf("%q is taken for %s", path, parsed.Endpoint)
			}
			return
		}
		segments := strings.Split(parsed.Upstream(super, "super-uid"), "/")
		if len(segments) < 4 || len(segments) > 6 || segments[0] != "" || segments[2] != "super-namespace" || segments[3] != "super-pod" {
			t.Fatalf("%q becomes %q", path, segments)
		}
		for _, segment := range segments[1:] {
			if segment == "" || segment == "." || segment == ".." || strings.ContainsAny(segment, "%?#\\ \x00") {
				t.Fatalf("%q becomes %q", path, segments)
			}
		}
	})
}

func FuzzParseQuery(f *testing.F) {
	f.Add("command=sh&command=-c&tty=0")
	f.Add("command=a;b")
	f.Add("%zz=1&tty")
	f.Fuzz(func(t *testing.T, raw string) {
		values, err := Exec.ParseQuery(raw)
		if err != nil {
			return
		}
		again, err := Exec.ParseQuery(values.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(values, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
