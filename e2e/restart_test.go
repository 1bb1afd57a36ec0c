//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nodes of the embedded super cluster.
var nodeNames = []string{"node-1", "node-2"}

// dataPlaneRestarts kills what carries the rules, in orders that differ from round
// to round, while tenants make and remove Services and pods. When all is quiet
// each sandbox's kernel holds exactly what its tenant's apiserver says.
func dataPlaneRestarts(t *testing.T, tenants []*tenant) {
	kills := []struct {
		name string
		kill func(t *testing.T, node string) int
	}{
		{"tenant-proxy", func(t *testing.T, _ string) int {
			return killPods(t, "bulkhead-system", client.MatchingLabels{"app.kubernetes.io/name": "tenant-proxy"}, "tenant-proxy")
		}},
		{"cri-ext", func(t *testing.T, node string) int { return killService(t, node+"-cri-ext", "cri-ext") }},
		{"containerd", func(t *testing.T, node string) int { return killService(t, node+"-containerd", "containerd") }},
		{"kubelet", func(t *testing.T, node string) int { return killService(t, node+"-kubelet", "hyperkube") }},
	}
	for round := range 3 {
		for i := range kills {
			kill := kills[(i*(round+1)+round)%len(kills)] // three orders, each of all four
			if round == 1 {
				kill = kills[len(kills)-1-i]
			}
			node := nodeNames[(round+i)%len(nodeNames)]
			if n := kill.kill(t, node); n == 0 {
				t.Errorf("there was no %s on %s to kill", kill.name, node)
			}
			for _, tn := range tenants {
				change(t, tn, round*len(kills)+i)
			}
		}
	}
	for _, tn := range tenants {
		for _, what := range []string{"deployment/echo", "statefulset/db"} {
			tn.kubectl(t, "rollout", "status", what, "--timeout=3m")
		}
		eventually(t, 3*time.Minute, "no pod of "+tn.Name+" is stuck", func(ctx context.Context) error {
			var pods corev1.PodList
			if err := tn.client.List(ctx, &pods); err != nil {
				return err
			}
			var stuck []string
			for _, pod := range pods.Items {
				if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
					stuck = append(stuck, pod.Name)
				}
			}
			if len(stuck) > 0 {
				return fmt.Errorf("not running or not gone: %v", stuck)
			}
			return nil
		})
	}
	eventually(t, 2*time.Minute, "each sandbox holds exactly its tenant's rules", func(ctx context.Context) error {
		return compareKernels(ctx, tenants)
	})
}

// change makes a Service, removes an older one, and replaces a backend.
func change(t *testing.T, tn *tenant, n int) {
	t.Helper()
	tn.kubectl(t, "create", "service", "clusterip", fmt.Sprintf("churn-%d", n), "--tcp=80:8080")
	tn.kubectl(t, "set", "selector", fmt.Sprintf("service/churn-%d", n), "app=echo")
	if n >= 2 {
		tn.kubectl(t, "delete", "service", fmt.Sprintf("churn-%d", n-2))
	}
	if n%3 == 0 {
		own, err := echoPods(t.Context(), tn)
		if err != nil {
			t.Fatal(err)
		}
		tn.kubectl(t, "delete", "pod", own[0], "--wait=false")
	}
}

// killService kills the program of a node's service; its supervisor starts it again.
func killService(t *testing.T, service, program string) int {
	t.Helper()
	pids := processes(t, func(dir string) bool {
		name, _, _ := strings.Cut(read(dir, "cmdline"), "\x00")
		return filepath.Base(name) == program && strings.Contains(read(dir, "cgroup"), "/services/"+service+"\n")
	})
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("killing %s (%d): %v", service, pid, err)
		}
	}
	return len(pids)
}

// criExt runs a verb of cri-ext on a node and reads its answer.
func criExt(ctx context.Context, node string, answer any, args ...string) error {
	command := exec.CommandContext(ctx, "nsenter", append([]string{
		"--mount=/run/bulkhead-local/mountns/" + node, "--net=/run/netns/bh-" + node, "--wdns=/", "--",
		"/run/bulkhead/bin/cri-ext"}, append(args, "-o", "json")...)...)
	out, err := command.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return fmt.Errorf("cri-ext %s on %s: %w", strings.Join(args, " "), node, err)
	}
	return json.Unmarshal(out, answer)
}

// sandboxView is what cri-ext says of a sandbox.
type sandboxView struct {
	Sandbox, Namespace, Name, Tenant string
	ControlPlane                     bool
}

// frontends maps "ADDRESS:PORT/PROTOCOL" to its endpoints.
type frontends map[string][]string

// compareKernels reads the rules of all sandboxes of the tenants out of the kernel.
func compareKernels(ctx context.Context, tenants []*tenant) error {
	seen := 0
	for _, tn := range tenants {
		want, err := wantedFrontends(ctx, tn)
		if err != nil {
			return err
		}
		for _, node := range nodeNames {
			var views []sandboxView
			if err := criExt(ctx, node, &views, "pods"); err != nil {
				return err
			}
			for _, view := range views {
				if view.Tenant != string(tn.UID) || view.ControlPlane {
					continue
				}
				seen++
				live, err := liveFrontends(ctx, node, view.Sandbox)
				if err != nil {
					return err
				}
				if err := sameFrontends(want, live); err != nil {
					return fmt.Errorf("pod %s/%s of %s on %s: %w", view.Namespace, view.Name, tn.Name, node, err)
				}
			}
		}
	}
	if seen < 4*len(tenants) {
		return fmt.Errorf("only %d sandboxes were there to compare", seen)
	}
	return nil
}

// wantedFrontends are the tenant's Services at their ClusterIPs, as its apiserver
// has them.
func wantedFrontends(ctx context.Context, tn *tenant) (frontends, error) {
	var services corev1.ServiceList
	var endpointSlices discoveryv1.EndpointSliceList
	if err := errors.Join(tn.client.List(ctx, &services), tn.client.List(ctx, &endpointSlices)); err != nil {
		return nil, err
	}
	want := frontends{}
	for _, service := range services.Items {
		if service.Spec.ClusterIP == corev1.ClusterIPNone || service.Spec.ClusterIP == "" {
			continue
		}
		for _, port := range service.Spec.Ports {
			key := fmt.Sprintf("%s:%d/%s", service.Spec.ClusterIP, port.Port, port.Protocol)
			want[key] = []string{}
			for _, slice := range endpointSlices.Items {
				if slice.Namespace != service.Namespace || slice.Labels[discoveryv1.LabelServiceName] != service.Name {
					continue
				}
				for _, p := range slice.Ports {
					if ptr.Deref(p.Name, "") != port.Name || *p.Protocol != port.Protocol {
						continue
					}
					for _, endpoint := range slice.Endpoints {
						if ptr.Deref(endpoint.Conditions.Ready, true) {
							want[key] = append(want[key], fmt.Sprintf("%s:%d", endpoint.Addresses[0], *p.Port))
						}
					}
				}
			}
			slices.Sort(want[key])
		}
	}
	return want, nil
}

// liveFrontends are those of a sandbox's kernel that are in the range of ClusterIPs.
func liveFrontends(ctx context.Context, node, sandbox string) (frontends, error) {
	var answer struct {
		Live     bool
		Services []struct {
			Address   netip.Addr
			Port      uint16
			Protocol  string
			Endpoints []string
		}
	}
	if err := criExt(ctx, node, &answer, "rules", sandbox, "--live"); err != nil {
		return nil, err
	}
	if !answer.Live {
		return nil, errors.New("the answer does not come from the kernel")
	}
	live := frontends{}
	for _, s := range answer.Services {
		if netip.MustParsePrefix("10.96.0.0/16").Contains(s.Address) {
			slices.Sort(s.Endpoints)
			live[fmt.Sprintf("%s:%d/%s", s.Address, s.Port, s.Protocol)] = s.Endpoints
		}
	}
	return live, nil
}

func sameFrontends(want, live frontends) error {
	var problems []string
	for key, endpoints := range want {
		if got, there := live[key]; !there || !slices.Equal(got, endpoints) {
			problems = append(problems, fmt.Sprintf("%s leads to %v, want %v", key, got, endpoints))
		}
	}
	for key := range live {
		if _, wanted := want[key]; !wanted {
			problems = append(problems, key+" is no Service of the tenant")
		}
	}
	if len(problems) > 0 {
		slices.Sort(problems)
		return errors.New(strings.Join(problems, "; "))
	}
	return nil
}
