package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// The apiserver of one tenant dies: its rules stay, the other tenant's go on, a pod
// of a tenant that is not known yet is told why; and all is well when it is back.
func TestTenantsApiserverIsAway(t *testing.T) {
	host := newNodeHost(t)
	running := startProxy(t, host, nil)
	superPod(t, env.a, "front")
	superPod(t, env.b, "front")
	makeService(t, env.a, "shop", "10.96.3.1", "10.244.0.1")
	makeService(t, env.b, "shop", "10.96.3.1", "10.244.9.1")
	host.awaitEndpoints(t, env.a, "10.96.3.1:80", "10.244.0.1:8080")
	host.awaitEndpoints(t, env.b, "10.96.3.1:80", "10.244.9.1:8080")

	env.a.KillAPIServer()
	makeService(t, env.b, "other", "10.96.3.2", "10.244.9.2")
	host.awaitEndpoints(t, env.b, "10.96.3.2:80", "10.244.9.2:8080")
	if host.endpoints(env.a, "10.96.3.1:80") == nil {
		t.Error("rules went away with the tenant's apiserver")
	}
	// Another tenant-proxy knows nothing of the tenant yet.
	running.stop()
	startProxy(t, host, nil)
	await(t, func() error {
		var reason string
		host.locked(func() { reason = host.pending[env.a.UID] })
		if !strings.Contains(reason, "its apiserver does not answer") {
			return fmt.Errorf("the reason for waiting is %q", reason)
		}
		return nil
	})
	host.awaitEndpoints(t, env.b, "10.96.3.2:80", "10.244.9.2:8080")
	if err := env.a.StartAPIServer(t.Context(), testenv.Options{ServiceCIDR: serviceCIDR}); err != nil {
		t.Fatal(err)
	}
	makeService(t, env.a, "other", "10.96.3.2", "10.244.0.2")
	host.awaitEndpoints(t, env.a, "10.96.3.2:80", "10.244.0.2:8080")
	host.awaitEndpoints(t, env.a, "10.96.3.1:80", "10.244.0.1:8080")
}

// A tenant-proxy that starts anew goes on with the numbers that the node holds: what
// did not change is not sent, and a change is the next generation.
func TestRestartContinuesNumbering(t *testing.T) {
	host := newNodeHost(t)
	running := startProxy(t, host, nil)
	superPod(t, env.a, "front")
	_, slice := makeService(t, env.a, "shop", "10.96.4.1", "10.244.0.1")
	host.awaitEndpoints(t, env.a, "10.96.4.1:80", "10.244.0.1:8080")
	before := host.Rules(env.a.UID)
	running.stop()

	next := startProxy(t, host, nil)
	await(t, func() error {
		if !next.pods.Complete() || !next.feed.Connected() {
			return errors.New("it is not connected")
		}
		return nil
	})
	slice.Endpoints[0].Addresses = []string{"10.244.0.5"}
	change(t, env.a, slice)
	host.awaitEndpoints(t, env.a, "10.96.4.1:80", "10.244.0.5:8080")
	if after := host.Rules(env.a.UID); after.Generation() <= before.Generation() {
		t.Errorf("generation %d after %d", after.Generation(), before.Generation())
	}
}

// New credentials are taken up without a gap in the rules.
func TestCredentialsAreRenewed(t *testing.T) {
	host := newNodeHost(t)
	startProxy(t, host, func(o *options) { o.resync = time.Second })
	superPod(t, env.a, "front")
	makeService(t, env.a, "shop", "10.96.5.1", "10.244.0.1")
	host.awaitEndpoints(t, env.a, "10.96.5.1:80", "10.244.0.1:8080")

	// What cannot be read leaves what was good in force.
	secret, err := env.a.secret()
	if err != nil {
		t.Fatal(err)
	}
	good := secret.Data
	testenv.Change(t, env.super.Client, secret, func() {
		secret.Data = map[string][]byte{tenancy.KubeconfigKey: []byte("nothing"), tenancy.ServiceCIDRKey: []byte("10.0.0.0/40")}
	})
	makeService(t, env.a, "second", "10.96.5.2", "10.244.0.2")
	host.awaitEndpoints(t, env.a, "10.96.5.2:80", "10.244.0.2:8080")

	good[tenancy.ServiceCIDRKey] = []byte(serviceCIDR + ", 10.200.0.0/16")
	testenv.Change(t, env.super.Client, secret, func() { secret.Data = good })
	await(t, func() error {
		if ranges := host.Rules(env.a.UID).Ranges(); len(ranges) != 2 {
			return fmt.Errorf("ranges %v", ranges)
		}
		return nil
	})
	makeService(t, env.a, "third", "10.96.5.3", "10.244.0.3")
	host.awaitEndpoints(t, env.a, "10.96.5.3:80", "10.244.0.3:8080")
	host.awaitEndpoints(t, env.a, "10.96.5.1:80", "10.244.0.1:8080")
	restored, err := env.a.secret()
	if err != nil {
		t.Fatal(err)
	}
	testenv.Change(t, env.super.Client, secret, func() { secret.Data = restored.Data })
}

// A tenant comes before its credentials, and goes with them, as when its virtual
// cluster is deleted: then it is dropped with its last pod, without lingering.
func TestTenantGoes(t *testing.T) {
	host := newNodeHost(t)
	startProxy(t, host, func(o *options) { o.resync = time.Second })
	c := &tenantCluster{Tenant: tenancy.Tenant{UID: "uid-of-c", Namespace: "team-c", Name: "demo"}, Cluster: env.b.Cluster}
	// The pod is there before the Secret: it waits, and says for what.
	if err := env.introduce(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.ControlPlaneNamespace(), Name: tenancy.TenantProxyKubeconfigSecret}}
	remove(t, env.super, secret)
	front := superPod(t, c, "front")
	await(t, func() error {
		var reason string
		host.locked(func() { reason = host.pending[c.UID] })
		if !strings.Contains(reason, "credentials for its cluster are not there yet") {
			return fmt.Errorf("the reason for waiting is %q", reason)
		}
		return nil
	})
	again, err := c.secret()
	if err != nil {
		t.Fatal(err)
	}
	create(t, env.super, again)
	makeService(t, c, "shop", "10.96.6.1", "10.244.9.1")
	host.awaitEndpoints(t, c, "10.96.6.1:80", "10.244.9.1:8080")

	remove(t, env.super, again)
	remove(t, env.super, front)
	await(t, func() error {
		var forgotten bool
		host.locked(func() { forgotten = host.forgotten[c.UID] && len(host.pods) == 0 })
		if !forgotten {
			return errors.New("it lingers")
		}
		return nil
	})
}

// Whose a pod is comes from its namespace, and a pod that says otherwise has nobody.
func TestForgedMarks(t *testing.T) {
	host := newNodeHost(t)
	startProxy(t, host, nil)
	put := func(namespace, name string, labels map[string]string) {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
			Spec:       corev1.PodSpec{NodeName: nodeName, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
		}
		create(t, env.super, pod)
		t.Cleanup(func() { remove(t, env.super, pod) })
	}
	mark := func(tenant *tenantCluster) map[string]string {
		return map[string]string{tenancy.LabelTenant: string(tenant.UID), tenancy.LabelManagedBy: tenancy.ManagedBySyncer}
	}
	// A namespace that bears a's mark, but not a name derived from it.
	forged := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "vc-demo-web-forged"}}
	tenancy.Mark(forged, env.a.Tenant, tenancy.ManagedBySyncer, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "x"}})
	if err := client.IgnoreAlreadyExists(env.super.Client.Create(t.Context(), forged)); err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: forged.Name, Name: "default"}}
	if err := client.IgnoreAlreadyExists(env.super.Client.Create(t.Context(), account)); err != nil {
		t.Fatal(err)
	}
	put(env.b.SuperNamespace("web"), "says-a", mark(env.a))
	put(env.b.SuperNamespace("web"), "says-nothing", nil)
	put(forged.Name, "forged", mark(env.a))
	put("bulkhead-system", "elsewhere", mark(env.a))
	put(env.a.ControlPlaneNamespace(), "kube-apiserver", map[string]string{tenancy.LabelTenant: string(env.a.UID), tenancy.LabelManagedBy: tenancy.ManagedByManager})
	superPod(t, env.b, "front")
	await(t, func() error {
		if names := host.podNames(); len(names) != 2 {
			return fmt.Errorf("pods %v", names)
		}
		return nil
	})
	host.locked(func() {
		for _, pod := range host.pods {
			switch pod.Name {
			case "kube-apiserver":
				if !pod.ControlPlane || pod.Tenant != env.a.UID {
					t.Errorf("%+v", pod)
				}
			case "front":
				if pod.ControlPlane || pod.Tenant != env.b.UID {
					t.Errorf("%+v", pod)
				}
			default:
				t.Errorf("pod %s is told to be %s's", pod.Name, pod.Tenant)
			}
		}
		if len(host.pending) > 1 {
			t.Errorf("a control plane's pod has its tenant watched: %v", host.pending)
		}
	})
}

// Reports of cri-ext become events on the super cluster's pods, not too many.
func TestReportsBecomeEvents(t *testing.T) {
	host := newNodeHost(t)
	running := startProxy(t, host, nil)
	pod := superPod(t, env.a, "front")
	var known feed.Pod
	await(t, func() error {
		host.locked(func() { known = host.pods[pod.UID] })
		if known.UID == "" || !running.feed.Connected() {
			return errors.New("the pod is not known")
		}
		return nil
	})
	for i := range 20 {
		host.server.Report(feed.Report{Pod: known, Reason: feed.RulesInjectionFailed, Message: fmt.Sprint("attempt ", i), Warning: true, Time: time.Now()})
	}
	stranger := known
	stranger.UID, stranger.Name = "stranger", "stranger"
	host.server.Report(feed.Report{Pod: stranger, Reason: feed.RulesPending, Time: time.Now()})
	host.server.Report(feed.Report{Pod: known, Reason: feed.RulesInjected, Message: "generation 7 in 3 ms", Time: time.Now()})
	await(t, func() error {
		var list eventsv1.EventList
		if err := env.super.Client.List(t.Context(), &list, client.InNamespace(pod.Namespace)); err != nil {
			return err
		}
		var got []string
		for _, event := range list.Items {
			if event.Regarding.UID == pod.UID || event.Regarding.Name == "stranger" {
				got = append(got, event.Type+" "+event.Reason+" "+event.Note)
			}
		}
		want := []string{"Warning RulesInjectionFailed attempt 0", "Normal RulesInjected generation 7 in 3 ms"}
		if len(got) != len(want) || !strings.Contains(strings.Join(got, "\n"), want[0]) || !strings.Contains(strings.Join(got, "\n"), want[1]) {
			return fmt.Errorf("events %q, want %q", got, want)
		}
		return nil
	})
}

// Who wrote a Service that cannot be served is told there, once.
func TestProblemsAreToldOnTheService(t *testing.T) {
	host := newNodeHost(t)
	startProxy(t, host, nil)
	superPod(t, env.a, "front")
	first, _ := makeService(t, env.a, "first", "10.96.7.1", "10.244.0.1")
	second, _ := makeService(t, env.a, "second", "10.96.7.2", "10.244.0.2")
	for _, service := range []*corev1.Service{first, second} {
		service.Spec.ExternalIPs = []string{"203.0.113.77"}
		change(t, env.a, service)
	}
	await(t, func() error {
		var list eventsv1.EventList
		if err := env.a.Client.List(t.Context(), &list, client.InNamespace("web")); err != nil {
			return err
		}
		for _, event := range list.Items {
			if event.Reason == "AddressTaken" && event.Type == corev1.EventTypeWarning && strings.Contains(event.Note, "203.0.113.77:80/TCP leads to service ") {
				return nil
			}
		}
		return fmt.Errorf("%d events, and none about the address", len(list.Items))
	})
}
