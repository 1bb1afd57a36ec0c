//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestServices runs the same Services, with the same addresses, in two virtual
// clusters: each tenant's clients reach their own backends by every way that there
// is to a Service, and nothing of the other's.
func TestServices(t *testing.T) {
	tenants := newTenants(t, "plane-1", "plane-2")
	one, two := tenants[0], tenants[1]
	for _, tn := range tenants {
		tn.apply(t, "dataplane.yaml")
	}
	for _, tn := range tenants {
		tn.kubectl(t, "rollout", "status", "deployment/echo", "--timeout=4m")
		tn.kubectl(t, "rollout", "status", "statefulset/db", "--timeout=4m")
		tn.kubectl(t, "rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=4m")
		tn.kubectl(t, "wait", "--for=condition=Ready", "pod/client", "pod/in-cluster", "--timeout=2m")
	}
	for _, tn := range tenants {
		t.Run(tn.Name, func(t *testing.T) {
			t.Run("reach", func(t *testing.T) { reachServices(t, tn) })
			t.Run("affinity", func(t *testing.T) { sticky(t, tn) })
			t.Run("refusal", func(t *testing.T) { refusals(t, tn) })
			t.Run("dns", func(t *testing.T) { names(t, tn) })
			t.Run("in-cluster-client", func(t *testing.T) { inClusterClient(t, tn) })
		})
	}
	t.Run("fence", func(t *testing.T) { fence(t, one, two) })
	t.Run("network-policy", func(t *testing.T) { networkPolicy(t, one) })
	t.Run("endpoints-by-hand", func(t *testing.T) { endpointsByHand(t, one, two) })
	t.Run("rollout", func(t *testing.T) { rolloutUnderLoad(t, one) })
	t.Run("webhook", func(t *testing.T) { webhook(t, one) })
	t.Run("aggregated-api", func(t *testing.T) { aggregatedAPI(t, one) })
	t.Run("restarts", func(t *testing.T) { dataPlaneRestarts(t, tenants) })
}

// echoPods are the names of the pods behind Service echo.
func echoPods(ctx context.Context, tn *tenant) ([]string, error) {
	var pods corev1.PodList
	if err := tn.client.List(ctx, &pods, client.InNamespace("default"), client.MatchingLabels{"app": "echo"}); err != nil {
		return nil, err
	}
	var names []string
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil {
			names = append(names, pod.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no pods with app=echo", tn.Name)
	}
	return names, nil
}

// dial has the client pod call the host several times and returns what answered.
func dial(ctx context.Context, tn *tenant, protocol, host string, port, tries int) ([]string, error) {
	url := fmt.Sprintf("http://127.0.0.1:8080/dial?request=hostname&protocol=%s&host=%s&port=%d&tries=%d", protocol, host, port, tries)
	out, err := tn.tryKubectl(ctx, "exec", "client", "--", "timeout", "30", "wget", "-q", "-O", "-", url)
	if err != nil {
		return nil, fmt.Errorf("%s %s:%d: %w: %s", protocol, host, port, err, out)
	}
	var answer struct {
		Responses, Errors []string
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return nil, fmt.Errorf("%s %s:%d answers %q: %w", protocol, host, port, out, err)
	}
	if len(answer.Errors) > 0 {
		return answer.Responses, fmt.Errorf("%s %s:%d: %s", protocol, host, port, strings.Join(answer.Errors, "; "))
	}
	return answer.Responses, nil
}

// reachServices calls Service echo by TCP and UDP, by address and by name, at the
// node's port, at the external address, and from one of its own backends.
func reachServices(t *testing.T, tn *tenant) {
	var pod corev1.Pod
	if err := tn.client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "client"}, &pod); err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct {
		protocol, host string
		port           int
	}{
		{"http", "10.96.0.100", 80}, {"udp", "10.96.0.100", 81},
		{"http", "echo", 80}, {"udp", "echo.default", 81}, {"http", "echo.default.svc.cluster.local", 80},
		{"http", "alias", 80},
		{"http", "10.96.0.103", 80}, {"http", pod.Status.HostIP, 30080}, {"http", "192.0.2.80", 80},
	} {
		eventually(t, time.Minute, fmt.Sprintf("%s answers at %s %s:%d", tn.Name, way.protocol, way.host, way.port), func(ctx context.Context) error {
			own, err := echoPods(ctx, tn)
			if err != nil {
				return err
			}
			answers, err := dial(ctx, tn, way.protocol, way.host, way.port, 12)
			if err != nil {
				return err
			}
			slices.Sort(answers)
			answers = slices.Compact(answers)
			slices.Sort(own)
			if !slices.Equal(answers, own) {
				return fmt.Errorf("answers come from %v, want each of %v and nobody else", answers, own)
			}
			return nil
		})
	}
	// A backend that calls its own Service gets itself, too.
	out := tn.kubectl(t, "exec", "deploy/echo", "--", "sh", "-c",
		"for i in 1 2 3 4 5 6 7 8; do timeout 5 wget -q -O - http://10.96.0.100/hostname || exit 1; echo; done")
	if own := strings.TrimSpace(tn.kubectl(t, "exec", "deploy/echo", "--", "hostname")); !strings.Contains(out, own) {
		t.Errorf("backend %s never got itself out of:\n%s", own, out)
	}
}

func sticky(t *testing.T, tn *tenant) {
	var answers []string
	eventually(t, time.Minute, "the Service with affinity answers", func(ctx context.Context) (err error) {
		answers, err = dial(ctx, tn, "http", "10.96.0.101", 80, 10)
		return err
	})
	slices.Sort(answers)
	if different := slices.Compact(answers); len(different) != 1 {
		t.Errorf("a Service with affinity answers from %v", different)
	}
}

// refusals wants a refusal, not silence: from a Service without endpoints, from
// another port of a Service, and from an address that no Service has.
func refusals(t *testing.T, tn *tenant) {
	for _, address := range []string{"10.96.0.102 80", "10.96.0.100 82", "10.96.200.200 80"} {
		out, err := tn.tryKubectl(t.Context(), "exec", "client", "--", "sh", "-c", "nc -w 20 "+address+" </dev/null 2>&1")
		if err == nil || !strings.Contains(out, "refused") {
			t.Errorf("%s: %v: %q, want a refusal", address, err, out)
		}
	}
}

// names looks up what the tenant's DNS has to know.
func names(t *testing.T, tn *tenant) {
	var pods corev1.PodList
	if err := tn.client.List(t.Context(), &pods, client.InNamespace("default"), client.MatchingLabels{"app": "db"}); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"kubernetes.default.svc.cluster.local.": {"10.96.0.1"},
		"echo.default.svc.cluster.local.":       {"10.96.0.100"},
	}
	for _, pod := range pods.Items {
		want["db.default.svc.cluster.local."] = append(want["db.default.svc.cluster.local."], pod.Status.PodIP)
		want[pod.Name+".db.default.svc.cluster.local."] = []string{pod.Status.PodIP}
	}
	if len(want) != 5 {
		t.Fatalf("not the names of two pods: %v", want)
	}
	for name, addresses := range want {
		eventually(t, time.Minute, "DNS knows "+name, func(ctx context.Context) error {
			out, err := tn.tryKubectl(ctx, "exec", "client", "--", "nslookup", name)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for _, address := range addresses {
				if !strings.Contains(out, address+"\n") {
					return fmt.Errorf("no %s in:\n%s", address, out)
				}
			}
			return nil
		})
	}
	resolv := tn.kubectl(t, "exec", "client", "--", "cat", "/etc/resolv.conf")
	for _, line := range []string{"nameserver 10.96.0.10\n", "search default.svc.cluster.local svc.cluster.local cluster.local\n", "ndots:5"} {
		if !strings.Contains(resolv, line) {
			t.Errorf("resolv.conf has no %q:\n%s", line, resolv)
		}
	}
	if out := strings.TrimSpace(tn.kubectl(t, "exec", "db-0", "--", "hostname", "-f")); out != "db-0" && !strings.HasPrefix(out, "db-0.") {
		t.Errorf("the StatefulSet's pod calls itself %q", out)
	}
}

// inClusterClient: a client that knows nothing but its environment and its token.
func inClusterClient(t *testing.T, tn *tenant) {
	env := tn.kubectl(t, "exec", "client", "--", "sh", "-c", "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT")
	if strings.TrimSpace(env) != "10.96.0.1:443" {
		t.Errorf("the environment names the apiserver %q", strings.TrimSpace(env))
	}
	eventually(t, time.Minute, "a call of the API from within", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "logs", "in-cluster", "--tail=20")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "calling /healthz") || strings.Contains(out, "status=failed") {
			return fmt.Errorf("the client logs:\n%s", out)
		}
		return nil
	})
}

// rolloutUnderLoad replaces all backends while a client calls without a pause.
func rolloutUnderLoad(t *testing.T, tn *tenant) {
	tn.kubectl(t, "exec", "client", "--", "sh", "-c", `rm -f /tmp/stop /tmp/lost /tmp/count
(i=0; while [ ! -e /tmp/stop ]; do timeout 5 wget -q -O /dev/null http://10.96.0.100/hostname || echo "request $i" >> /tmp/lost; i=$((i+1)); done; echo $i > /tmp/sum; mv /tmp/sum /tmp/count) >/tmp/load.log 2>&1 &`)
	for range 2 {
		tn.kubectl(t, "rollout", "restart", "deployment/echo")
		tn.kubectl(t, "rollout", "status", "deployment/echo", "--timeout=2m")
	}
	eventually(t, time.Minute, "the replaced backends are gone", func(ctx context.Context) error {
		var pods corev1.PodList
		if err := tn.client.List(ctx, &pods, client.InNamespace("default"), client.MatchingLabels{"app": "echo"}); err != nil {
			return err
		}
		if len(pods.Items) != 2 {
			return fmt.Errorf("%d pods", len(pods.Items))
		}
		return nil
	})
	tn.kubectl(t, "exec", "client", "--", "touch", "/tmp/stop")
	var count int
	eventually(t, time.Minute, "the client has stopped", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "exec", "client", "--", "cat", "/tmp/count")
		if err == nil {
			count, err = strconv.Atoi(strings.TrimSpace(out))
		}
		return err
	})
	if count < 20 {
		t.Errorf("only %d requests were made", count)
	}
	if lost, err := tn.tryKubectl(t.Context(), "exec", "client", "--", "cat", "/tmp/lost"); err == nil {
		t.Errorf("of %d requests were lost:\n%s", count, lost)
	}
	t.Logf("%d requests during two rollouts", count)
}
