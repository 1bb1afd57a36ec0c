package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/whereabouts"
	"github.com/bulkhead-dev/bulkhead/syncer/report"
)

// syncerPages stands for the syncer's, which package syncer tests: that a caller has
// a token, and is told what it asks for.
func syncerPages(t *testing.T) (dial func(context.Context, *rest.Config, string, string, int) (net.Conn, error)) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		since := time.Now().Add(-time.Minute)
		_ = json.NewEncoder(w).Encode(report.Object{
			Direction: "down", State: report.Retrying, Since: &since, Failures: 3, LastError: r.FormValue("tenant") + " " + r.FormValue("kind") + " " + r.FormValue("namespace") + "/" + r.FormValue("name"),
		})
	}))
	t.Cleanup(server.Close)
	return func(ctx context.Context, _ *rest.Config, _, pod string, port int) (net.Conn, error) {
		if pod != "syncer-abc_1" || port != syncerPort {
			return nil, errors.New("this is not the pod that leads: " + pod)
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
}

// A pod's way, step by step, through a real apiserver that is both clusters at once.
func TestExplainPod(t *testing.T) {
	u := newUser(t)
	ctx := t.Context()
	dial := syncerPages(t)
	explainAs := func(u user, args ...string) (whereabouts.Explanation, result) {
		t.Helper()
		var out, errOut bytes.Buffer
		e := newEnvironment(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut})
		e.dialPod = dial
		root := newRoot(e)
		root.SetArgs(append([]string{
			"explain", "--vc", "demo", "--platform-namespace", u.namespace, "-o", "json",
			"--kubeconfig", u.kubeconfig, "--namespace", u.namespace, "--cache-dir", filepath.Join(filepath.Dir(u.kubeconfig), "cache"),
		}, args...))
		r := result{err: root.ExecuteContext(ctx), out: out.String(), errOut: errOut.String()}
		var explanation whereabouts.Explanation
		if r.err == nil {
			if err := json.Unmarshal(out.Bytes(), &explanation); err != nil {
				t.Fatalf("%v in %s", err, r)
			}
		}
		return explanation, r
	}
	step := func(e whereabouts.Explanation, name string) whereabouts.Step {
		t.Helper()
		i := slices.IndexFunc(e.Steps, func(s whereabouts.Step) bool { return s.Name == name })
		if i < 0 {
			t.Fatalf("no step %s in %+v", name, e)
		}
		return e.Steps[i]
	}
	waits := func(pod string, words ...string) whereabouts.Explanation {
		t.Helper()
		e, r := explainAs(u, pod)
		if r.err != nil {
			t.Fatal(r)
		}
		for _, word := range words {
			if !strings.Contains(e.WaitsFor, word) {
				t.Errorf("waits for %q, which does not say %q", e.WaitsFor, word)
			}
		}
		return e
	}
	put := func(object client.Object) {
		t.Helper()
		if err := shared.Client.Create(ctx, object); err != nil {
			t.Fatal(err)
		}
	}

	vc := u.create(t, "demo")
	name := u.namespace + "/web"
	e := waits(name, "link", "has not said anything")
	if s := step(e, "pod"); s.State != whereabouts.Unknown || !strings.Contains(s.Detail, "not Ready") {
		t.Errorf("a tenant's cluster that is not there: %+v", s)
	}
	if s := step(e, "syncer"); s.State != whereabouts.Unknown || !strings.Contains(s.Detail, "--platform-namespace") {
		t.Errorf("a syncer that is not there: %+v", s)
	}

	u.setConditions(t, vc, append(slices.Clone(phase.Order), v1alpha1.ConditionSynced))
	publish(t, vc, shared.Kubeconfig)
	holder := "syncer-abc_1_7c0a"
	put(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: "syncer"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}})
	put(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: debugger}})
	waits(name, "there is no such pod")

	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: "web"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.k8s.io/pause:3.10"}}}}
	account := func(namespace string) {
		t.Helper()
		put(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}})
	}
	account(u.namespace)
	put(pod)
	waits(name, "syncer: it is tried again", "it failed 3 times", u.namespace+"/demo Pod "+name)
	waits("pod/"+name, "syncer")

	refusal := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: "web.1"}, Reason: "RefusedByPlatform", Message: "spec.hostNetwork: not here", LastTimestamp: metav1.Now(),
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: u.namespace, Name: "web", UID: pod.UID},
	}
	put(refusal)
	waits(name, "RefusedByPlatform: spec.hostNetwork: not here")

	of := tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name}
	namespace := of.SuperNamespace(u.namespace)
	put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	account(namespace)
	stranger := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}, Spec: pod.Spec}
	stranger.Spec.NodeName, stranger.Spec.ServiceAccountName = "", ""
	down := stranger.DeepCopy()
	put(stranger)
	waits(name, "RefusedByPlatform")
	if err := shared.Client.Delete(ctx, stranger, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	tenancy.Mark(down, of, tenancy.ManagedBySyncer, pod)
	put(down)
	e = waits(name, "scheduling: the super cluster's scheduler has not looked at it yet")
	if e.SuperPod != namespace+"/web" {
		t.Errorf("the super pod is said to be %s", e.SuperPod)
	}

	// Who may see the virtual cluster alone is told of what is missing, not refused.
	guest := newUserWith(t, shared, u.namespace, rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"virtualclusters"}, Verbs: []string{"get"}})
	e, r := explainAs(guest, name)
	if r.err != nil {
		t.Fatal(r)
	}
	for _, name := range []string{"pod", "syncer", "super pod"} {
		if s := step(e, name); s.State != whereabouts.Unknown || !strings.Contains(s.Detail, "you lack a right") {
			t.Errorf("without rights: %+v", s)
		}
	}
	if s := step(e, "syncer"); !strings.Contains(s.Detail, "Role "+debugger) {
		t.Errorf("it does not say what to ask for: %+v", s)
	}

	mustFail(t, u.run(ctx, "explain", "web"), "--vc NAME")
	mustFail(t, u.run(ctx, "explain", "web", "--vc", "none"), `virtual cluster "none" not found`)
	mustFail(t, u.run(ctx, "explain", "a/b/c", "--vc", "demo"), "is no pod")
	mustFail(t, u.run(ctx, "explain", "web", "--vc", "demo", "-o", "yaml"), "unknown output")
}
