//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// fence scans from a tenant's pod what a tenant must not reach: the other tenant,
// the platform, the super cluster, the nodes and the clouds' metadata address.
func fence(t *testing.T, from, other *tenant) {
	var own, forbidden []string
	for _, pod := range superPods(t, from.SuperNamespace("default")) {
		if pod.Labels["app"] == "echo" {
			own = append(own, pod.Status.PodIP+":8080")
		}
	}
	for _, pod := range superPods(t, from.ControlPlaneNamespace()) {
		switch {
		case strings.HasPrefix(pod.Name, "kube-apiserver"):
			own = append(own, pod.Status.PodIP+":6443")
		case strings.HasPrefix(pod.Name, "etcd"):
			forbidden = append(forbidden, pod.Status.PodIP+":2379")
		}
	}
	for _, pod := range superPods(t, other.SuperNamespace("default")) {
		forbidden = append(forbidden, pod.Status.PodIP+":8080")
	}
	for _, pod := range superPods(t, other.ControlPlaneNamespace()) {
		forbidden = append(forbidden, pod.Status.PodIP+":6443", pod.Status.PodIP+":2379", pod.Status.PodIP+":10257")
	}
	for _, ns := range []string{"bulkhead-system", "kube-system"} {
		for _, pod := range superPods(t, ns) {
			for _, port := range []string{":8443", ":10250", ":53", ":9153"} {
				forbidden = append(forbidden, pod.Status.PodIP+port)
			}
		}
	}
	var nodes corev1.NodeList
	if err := super.client.List(t.Context(), &nodes); err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes.Items {
		for _, address := range node.Status.Addresses {
			if address.Type == corev1.NodeInternalIP {
				for _, port := range []string{":10250", ":10550", ":10256", ":22"} {
					forbidden = append(forbidden, address.Address+port)
				}
			}
		}
	}
	var services corev1.ServiceList
	if err := super.client.List(t.Context(), &services); err != nil {
		t.Fatal(err)
	}
	for _, service := range services.Items {
		if service.Namespace == from.ControlPlaneNamespace() && service.Name == tenancy.APIServerService {
			continue // its own apiserver
		}
		for _, port := range service.Spec.Ports {
			if service.Spec.ClusterIP != "" && service.Spec.ClusterIP != corev1.ClusterIPNone {
				forbidden = append(forbidden, fmt.Sprintf("%s:%d", service.Spec.ClusterIP, port.Port))
			}
			if port.NodePort > 0 {
				forbidden = append(forbidden, fmt.Sprintf("%s:%d", nodes.Items[0].Status.Addresses[0].Address, port.NodePort))
			}
		}
	}
	host := strings.TrimPrefix(super.config.Host, "https://")
	forbidden = append(forbidden, host, strings.Split(host, ":")[0]+":5000", "169.254.169.254:80", "[fe80::a9fe:a9fe]:80")
	slices.Sort(forbidden)
	forbidden = slices.Compact(forbidden)
	if len(own) < 2 || len(forbidden) < 30 {
		t.Fatalf("too little to scan: %v, %v", own, forbidden)
	}

	// The scan can find something: it finds what is the tenant's own.
	slices.Sort(own)
	eventually(t, time.Minute, "the tenant's own is open", func(ctx context.Context) error {
		open, err := scan(ctx, from, own)
		if err == nil && !slices.Equal(open, own) {
			err = fmt.Errorf("open is %v of %v", open, own)
		}
		return err
	})
	open, err := scan(t.Context(), from, forbidden)
	if err != nil {
		t.Fatal(err)
	}
	if len(open) > 0 {
		t.Errorf("of %d forbidden addresses a tenant's pod reaches %v", len(forbidden), open)
	}
	// And by UDP: the super cluster's DNS.
	var dns corev1.Service
	if err := super.client.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: "kube-dns"}, &dns); err != nil {
		t.Fatal(err)
	}
	if out, err := from.tryKubectl(t.Context(), "exec", "client", "--", "timeout", "5", "nslookup", "kubernetes.default.svc.cluster.local.", dns.Spec.ClusterIP); err == nil {
		t.Errorf("the super cluster's DNS answers a tenant:\n%s", out)
	}
}

// scan returns the addresses that the client pod can connect to, in order.
func scan(ctx context.Context, tn *tenant, addresses []string) ([]string, error) {
	script := "for a in " + strings.Join(addresses, " ") + `; do
  (/agnhost connect --timeout=4s "$a" >/dev/null 2>&1 && echo "$a") &
done; wait; echo done`
	out, err := tn.tryKubectl(ctx, "exec", "client", "--", "sh", "-c", script)
	lines := strings.Fields(out)
	if err != nil || len(lines) == 0 || !slices.Contains(lines, "done") {
		return nil, fmt.Errorf("scanning from %s: %w: %s", tn.Name, err, out)
	}
	lines = slices.DeleteFunc(lines, func(line string) bool { return line == "done" })
	slices.Sort(lines)
	return lines, nil
}

// superPods lists the pods of a super namespace that have an address.
func superPods(t *testing.T, namespace string) []corev1.Pod {
	t.Helper()
	var pods corev1.PodList
	if err := super.client.List(t.Context(), &pods, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	pods.Items = slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.Status.PodIP == "" || pod.Status.Phase != corev1.PodRunning
	})
	if len(pods.Items) == 0 {
		t.Fatalf("no pods run in %s", namespace)
	}
	return pods.Items
}

// networkPolicy has the tenant close its backends, and open them again to one of
// its own namespaces.
func networkPolicy(t *testing.T, tn *tenant) {
	tn.apply(t, "networkpolicy.yaml")
	tn.kubectl(t, "wait", "--for=condition=Ready", "pod/friend", "-n", "friends", "--timeout=2m")
	call := func(ctx context.Context, namespace, pod string) error {
		out, err := tn.tryKubectl(ctx, "exec", "-n", namespace, pod, "--", "timeout", "3", "wget", "-q", "-O", "-", "http://10.96.0.100/hostname")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	eventually(t, time.Minute, "the policy shuts others out", func(ctx context.Context) error {
		if call(ctx, "default", "client") == nil {
			return fmt.Errorf("the client still gets through")
		}
		return nil
	})
	eventually(t, time.Minute, "the policy lets friends in", func(ctx context.Context) error { return call(ctx, "friends", "friend") })
	tn.kubectl(t, "delete", "networkpolicy", "--all")
	eventually(t, time.Minute, "without a policy all is open", func(ctx context.Context) error { return call(ctx, "default", "client") })
}
