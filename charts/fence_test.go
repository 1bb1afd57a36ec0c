package charts_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// probeNamespace is one that no component may ever write to.
const probeNamespace = "kube-public"

const levelLabel = "pod-security.kubernetes.io/enforce"

// What vc-manager and syncer may write, seen by an API server with the chart's roles
// and policies: what is marked as theirs and nothing else, whatever RBAC would allow.
func TestComponentsAreFencedIn(t *testing.T) {
	cluster := testenv.New(t, testenv.Options{ControllerManager: true})
	installOn(t, cluster)
	namespaces := map[string]map[string]string{
		"marked-vc-manager": {tenancy.LabelManagedBy: tenancy.ManagedByManager, levelLabel: "restricted"},
		"marked-syncer":     {tenancy.LabelManagedBy: tenancy.ManagedBySyncer, levelLabel: "baseline"},
		"foreign":           nil,
	}
	for name, labels := range namespaces {
		if err := cluster.Client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, component := range []string{tenancy.ManagedByManager, tenancy.ManagedBySyncer} {
		as := impersonate(t, cluster, component)
		awaitFence(t, as)
		own := "marked-" + component
		for name := range namespaces {
			t.Run(component+" in "+name, func(t *testing.T) {
				for _, object := range []client.Object{
					&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "of-" + component}},
					&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "of-" + component}},
					&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "of-" + component}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}},
					&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "of-" + component}},
				} {
					checkAllowed(t, "creating", object, as.Create(t.Context(), object), name == own)
				}
				namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
				patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"touched":"yes"}}}`))
				checkAllowed(t, "changing", namespace, as.Patch(t.Context(), namespace, patch), name == own)
				// Nor may a component take a namespace over, or give its own away.
				grab := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"`+tenancy.LabelManagedBy+`":"`+other(component)+`"}}}`))
				checkAllowed(t, "relabelling", namespace, as.Patch(t.Context(), namespace, grab), false)
				loosen := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"`+levelLabel+`":null}}}`))
				checkAllowed(t, "loosening", namespace, as.Patch(t.Context(), namespace, loosen), false)
				checkAllowed(t, "deleting", namespace, as.Delete(t.Context(), namespace, client.DryRunAll), name == own)
			})
		}
		unmarked := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new-of-" + component}}
		checkAllowed(t, "creating", unmarked, as.Create(t.Context(), unmarked), false)
		unrestricted := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new-of-" + component, Labels: map[string]string{tenancy.LabelManagedBy: component}}}
		checkAllowed(t, "creating", unrestricted, as.Create(t.Context(), unrestricted), false)
		marked := unrestricted.DeepCopy()
		marked.Labels[levelLabel] = "restricted"
		checkAllowed(t, "creating", marked, as.Create(t.Context(), marked), true)
		// At once, before anybody's cache of namespaces can know it.
		first := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: marked.Name, Name: "first"}}
		checkAllowed(t, "creating", first, as.Create(t.Context(), first), true)
	}

	// Control planes are never more than restricted.
	privileged := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "privileged", Labels: map[string]string{
		tenancy.LabelManagedBy: tenancy.ManagedByManager, levelLabel: "privileged",
	}}}
	manager := impersonate(t, cluster, tenancy.ManagedByManager)
	checkAllowed(t, "creating", privileged, manager.Create(t.Context(), privileged), false)

	authority := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "vn-agent-serving-ca"}}
	checkAllowed(t, "creating", authority, manager.Create(t.Context(), authority), true)
	another := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "another"}}
	checkAllowed(t, "creating", another, manager.Create(t.Context(), another), false)
	takeover := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "mine"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "bulkhead-vc-manager"},
	}
	checkAllowed(t, "creating", takeover, manager.Create(t.Context(), takeover), false)
}

// open are the kinds that may be written outside of the fence, because RBAC or the
// API server itself says which of them: our own, requests for certificates of our one
// signer, reviews that change nothing, and events about our own kinds.
var open = map[string]bool{
	"virtualclusters": true, "virtualclusters/status": true, "virtualclusters/finalizers": true,
	"certificatesigningrequests/approval": true, "certificatesigningrequests/status": true, "signers": true,
	"tokenreviews": true, "subjectaccessreviews": true, "events": true,
}

// Whatever else a component may write everywhere is behind its fence.
func TestFenceIsWhole(t *testing.T) {
	fences := map[string]map[string]bool{}
	for _, object := range objects(t, mustTemplate(t, nil)) {
		if object.GetKind() != "ValidatingAdmissionPolicy" {
			continue
		}
		policy := typed[admissionregistrationv1.ValidatingAdmissionPolicy](t, object)
		fenced := map[string]bool{}
		for _, rule := range policy.Spec.MatchConstraints.ResourceRules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					fenced[resource+"."+group] = true
				}
			}
		}
		fences[policy.Labels["app.kubernetes.io/name"]] = fenced
	}
	for _, component := range []string{tenancy.ManagedByManager, tenancy.ManagedBySyncer} {
		for _, rule := range fromCode[component].ClusterRules {
			if !slices.ContainsFunc(rule.Verbs, func(verb string) bool { return !slices.Contains([]string{"get", "list", "watch"}, verb) }) {
				continue
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					if !open[resource] && !fences[component][resource+"."+group] {
						t.Errorf("%s may write %s.%s everywhere, and its policy does not say where", component, resource, group)
					}
				}
			}
		}
	}
}

func other(component string) string {
	if component == tenancy.ManagedBySyncer {
		return tenancy.ManagedByManager
	}
	return tenancy.ManagedBySyncer
}

func checkAllowed(t *testing.T, doing string, object client.Object, err error, want bool) {
	t.Helper()
	switch {
	case want && err != nil:
		t.Errorf("%s %T %s/%s: %v", doing, object, object.GetNamespace(), object.GetName(), err)
	case !want && err == nil:
		t.Errorf("%s %T %s/%s was let through", doing, object, object.GetNamespace(), object.GetName())
	case !want && !apierrors.IsForbidden(err):
		t.Errorf("%s %T %s/%s failed by another cause: %v", doing, object, object.GetNamespace(), object.GetName(), err)
	}
}

// impersonate is a client that acts as a component's ServiceAccount.
func impersonate(t *testing.T, cluster *testenv.Cluster, component string) client.Client {
	t.Helper()
	config := rest.CopyConfig(cluster.Config)
	config.Impersonate.UserName = "system:serviceaccount:" + namespace + ":" + component
	as, err := client.New(config, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return as
}

// awaitFence returns when the API server applies the component's policy: it takes
// new ones in after a moment.
func awaitFence(t *testing.T, as client.Client) {
	t.Helper()
	probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: probeNamespace, Name: "probe"}}
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		err := as.Create(ctx, probe.DeepCopy(), client.DryRunAll)
		return err != nil && strings.Contains(err.Error(), "may only touch namespaces"), nil
	})
	if err != nil {
		t.Fatalf("the policy does not come into force: %v", err)
	}
}

func installOn(t *testing.T, cluster *testenv.Cluster) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, cluster.Kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := helm(t, nil, "install", "bulkhead", "bulkhead", "--kubeconfig", kubeconfig, "--namespace", namespace, "--create-namespace",
		"--wait", "--timeout", "2m", "--set", "vcManager.replicas=0,syncer.replicas=0")
	if err != nil {
		t.Fatal(errors.New(stderr))
	}
	policies := &admissionregistrationv1.ValidatingAdmissionPolicyList{}
	if err := cluster.Client.List(t.Context(), policies); err != nil {
		t.Fatal(err)
	}
	for _, policy := range policies.Items {
		if policy.Status.TypeChecking != nil && len(policy.Status.TypeChecking.ExpressionWarnings) > 0 {
			t.Errorf("policy %s: %+v", policy.Name, policy.Status.TypeChecking.ExpressionWarnings)
		}
	}
}
