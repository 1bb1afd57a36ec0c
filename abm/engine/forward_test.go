package engine

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// simple is a service of ConfigMaps.
const simple = `
parameterSchema:
  type: object
  properties:
    greeting: {type: string, default: hello}
    second: {type: boolean, default: true}
plans: [{name: small}]
access: {super: [{kind: ConfigMap}]}
steps:
- name: one
  condition: OneReady
  retry: {limit: 3, initial: 1s, max: 1s}
  manifests:
    objects:
    - {id: a, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: '${instance.name}-a'}, data: {greeting: '${params.greeting}', state: '${instance.suspended ? "asleep" : "awake"}'}}}
    - {id: b, when: params.second, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: '${instance.name}-b'}}}
- name: two
  condition: TwoReady
  manifests:
    objects:
    - {id: c, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: '${instance.name}-c'}}}
`

func configMap(t *testing.T, instance *abmv1alpha1.ServiceInstance, name string) *corev1.ConfigMap {
	t.Helper()
	object := &corev1.ConfigMap{}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: instance.Namespace, Name: name}, object); err != nil {
		t.Fatal(err)
	}
	return object
}

// change changes an instance's spec as a person does.
func change(t *testing.T, instance *abmv1alpha1.ServiceInstance, how func(*abmv1alpha1.ServiceInstanceSpec)) {
	t.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(instance), instance); err != nil {
			return err
		}
		how(&instance.Spec)
		return admin.Update(t.Context(), instance)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func stalled(instance *abmv1alpha1.ServiceInstance, words string) bool {
	condition := meta.FindStatusCondition(instance.Status.Conditions, abmv1alpha1.ConditionStalled)
	return condition != nil && condition.Status == metav1.ConditionTrue && strings.Contains(condition.Message, words)
}

func notStalled(instance *abmv1alpha1.ServiceInstance) bool {
	return !meta.IsStatusConditionTrue(instance.Status.Conditions, abmv1alpha1.ConditionStalled)
}

// An object that is somebody else's stops a step: it is left as it is, and the work
// goes on once it is away.
func TestForeignObjectStalls(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, simple), nil)
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: "acme-b"}, Data: map[string]string{"theirs": "yes"}}
	if err := admin.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	p.until(t, instance, func() bool { return stalled(instance, "acme-b exists already and is not this instance's") })
	if got := configMap(t, instance, "acme-b"); got.ResourceVersion != theirs.ResourceVersion {
		t.Errorf("it was touched: %v", got)
	}
	if _, done := records(t, instance)["two"]; done {
		t.Error("the next step was begun")
	}
	// Three attempts are all there are, until somebody intervenes.
	p.until(t, instance, func() bool { return stalled(instance, "add an intervention Retry or Skip") })
	if err := admin.Delete(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	change(t, instance, func(spec *abmv1alpha1.ServiceInstanceSpec) {
		spec.Interventions = append(spec.Interventions, abmv1alpha1.Intervention{ID: "1", Step: "one", Action: abmv1alpha1.ActionRetry, By: "operator", Reason: "removed it"})
	})
	p.untilReady(t, instance)
	audit := records(t, instance)["one"].Audit
	if len(audit) != 1 || audit[0].By != "operator" || audit[0].During != abmv1alpha1.StepFailed {
		t.Errorf("audit is %+v", audit)
	}
	p.release(t, instance)
	nothingLeft(t, instance)
}

// What is not the instance's when it is released stays.
func TestReleaseLeavesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, simple), nil)
	p.untilReady(t, instance)
	ours := configMap(t, instance, "acme-a")
	if err := admin.Delete(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: "acme-a", Labels: ours.Labels}}
	if err := admin.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	// A label alone makes nothing ours whose UID is known; one that takes the label off
	// does not keep what is.
	other := configMap(t, instance, "acme-c")
	if err := admin.Patch(t.Context(), other, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":null}}`))); err != nil {
		t.Fatal(err)
	}
	p.release(t, instance)
	if got := configMap(t, instance, "acme-a"); got.UID != theirs.UID {
		t.Error("it was replaced")
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(other), other); !apierrors.IsNotFound(err) {
		t.Errorf("what lost its label is left: %v", err)
	}
}

// Parameters change, what is not wanted any more goes; what somebody changed or
// removed comes back.
func TestChangesAndDrift(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, simple), nil)
	p.untilReady(t, instance)
	change(t, instance, func(spec *abmv1alpha1.ServiceInstanceSpec) {
		spec.Parameters = rawJSON(t, map[string]any{"greeting": "${params}", "second": false})
	})
	p.untilReady(t, instance)
	if got := configMap(t, instance, "acme-a").Data["greeting"]; got != "${params}" {
		t.Errorf("greeting is %q", got)
	}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: instance.Namespace, Name: "acme-b"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("acme-b is left: %v", err)
	}
	drifted := configMap(t, instance, "acme-a")
	if err := admin.Patch(t.Context(), drifted, client.RawPatch("application/merge-patch+json", []byte(`{"data":{"greeting":"evil","theirs":"kept"}}`))); err != nil {
		t.Fatal(err)
	}
	if err := admin.Delete(t.Context(), configMap(t, instance, "acme-c")); err != nil {
		t.Fatal(err)
	}
	p.until(t, instance, func() bool {
		err := admin.Get(t.Context(), client.ObjectKey{Namespace: instance.Namespace, Name: "acme-c"}, &corev1.ConfigMap{})
		return err == nil && isReady(instance)
	})
	if got := configMap(t, instance, "acme-a").Data; got["greeting"] != "${params}" || got["theirs"] != "kept" {
		t.Errorf("data is %v", got)
	}
	change(t, instance, func(spec *abmv1alpha1.ServiceInstanceSpec) { spec.State = abmv1alpha1.StateSuspended })
	p.until(t, instance, func() bool { return instance.Status.Phase == abmv1alpha1.PhaseSuspended })
	if got := configMap(t, instance, "acme-a").Data["state"]; got != "asleep" {
		t.Errorf("suspended, it is %s", got)
	}
	change(t, instance, func(spec *abmv1alpha1.ServiceInstanceSpec) { spec.State = abmv1alpha1.StateRunning })
	p.untilReady(t, instance)
	if got := configMap(t, instance, "acme-a").Data["state"]; got != "awake" {
		t.Errorf("resumed, it is %s", got)
	}
}

// An instance keeps its revision whatever becomes of the definition, until it is
// upgraded by hand; then what the new revision lacks goes.
func TestRevisions(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	service := define(t, simple)
	instance := buy(t, service, nil)
	p.untilReady(t, instance)
	first := instance.Status.Revision
	second := redefine(t, service, simple[:strings.Index(simple, "- name: two")]+`
- name: three
  needs: []
  manifests:
    objects:
    - {id: d, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: '${instance.name}-d'}}}
`)
	if first == second {
		t.Fatal("the revision did not change")
	}
	p.untilReady(t, instance)
	if instance.Status.Revision != first {
		t.Errorf("it went to %s by itself", instance.Status.Revision)
	}
	definition := &abmv1alpha1.ServiceDefinition{ObjectMeta: metav1.ObjectMeta{Name: service}}
	if err := admin.Delete(t.Context(), definition); err != nil {
		t.Fatal(err)
	}
	change(t, instance, func(spec *abmv1alpha1.ServiceInstanceSpec) { spec.Revision = second })
	p.untilReady(t, instance)
	if instance.Status.Revision != second {
		t.Errorf("it has %s", instance.Status.Revision)
	}
	configMap(t, instance, "acme-d")
	if got := records(t, instance); len(got) != 2 || got["three"].Phase != abmv1alpha1.StepDone {
		t.Errorf("records are %v", got)
	}
	revisions := func() int {
		if _, err := p.definitions.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: service}}); err != nil {
			t.Fatal(err)
		}
		var list abmv1alpha1.ServiceRevisionList
		if err := admin.List(t.Context(), &list, client.MatchingLabels{abmv1alpha1.LabelService: service}); err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	if n := revisions(); n != 1 {
		t.Errorf("%d revisions are kept for the instance, want 1", n)
	}
	p.release(t, instance)
	nothingLeft(t, instance)
	if n := revisions(); n != 0 {
		t.Errorf("%d revisions are left", n)
	}
}

// A graph: branches do not wait for each other, an approval waits for a person, one
// step is left out, another is skipped by hand.
func TestGraphApprovalAndSkip(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, `
plans: [{name: small}]
access: {super: [{kind: ConfigMap}]}
order: Graph
steps:
- name: ask
  approval: {question: 'May ${instance.name} begin?'}
- name: after
  needs: [ask, stuck]
  manifests: {objects: [{id: x, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: after}}}]}
- name: free
  manifests: {objects: [{id: x, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: free}}}]}
- name: never
  when: instance.plan == 'large'
  manifests: {objects: [{id: x, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: never}}}]}
- name: stuck
  needs: [never]
  timeout: 1s
  wait: {object: {apiVersion: v1, kind: ConfigMap, name: nobody-makes-this}, until: 'true'}
`), nil)
	phases := func() map[string]abmv1alpha1.StepPhase {
		result := map[string]abmv1alpha1.StepPhase{}
		for _, s := range instance.Status.Steps {
			result[s.Name] = s.Phase
		}
		return result
	}
	p.until(t, instance, func() bool {
		got := phases()
		return got["free"] == abmv1alpha1.StepDone && got["never"] == abmv1alpha1.StepLeftOut && got["ask"] == abmv1alpha1.StepWorking && got["after"] == abmv1alpha1.StepPending
	})
	p.until(t, instance, func() bool { return stalled(instance, "step stuck has not been done within 1s") })
	change(t, instance, func(spec *abmv1alpha1.ServiceInstanceSpec) {
		spec.Interventions = []abmv1alpha1.Intervention{
			{ID: "1", Step: "ask", Action: abmv1alpha1.ActionApprove, By: "manager"},
			{ID: "2", Step: "stuck", Action: abmv1alpha1.ActionSkip, By: "operator", Reason: "not needed"},
		}
	})
	p.untilReady(t, instance)
	if !notStalled(instance) || phases()["stuck"] != abmv1alpha1.StepSkipped {
		t.Error(describeInstance(instance))
	}
	if !strings.Contains(p.events.String(), "Skip by operator on step stuck: not needed") {
		t.Errorf("no event tells of the intervention:\n%s", p.events)
	}
	p.release(t, instance)
	nothingLeft(t, instance)
}

// The content of a Secret that a step made cannot be read by expressions.
func TestSecretsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, `
plans: [{name: small}]
access: {super: [{kind: Secret}]}
steps:
- name: secret
  manifests: {objects: [{id: s, template: {apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {password: tops3cret}}}]}
  outputs: [{name: password, value: '${objects.s.data.password}'}]
`), nil)
	p.until(t, instance, func() bool { return stalled(instance, "output password") })
	if text := describeInstance(instance) + p.events.String(); strings.Contains(text, "tops3cret") || strings.Contains(text, "dG9wczNjcmV0") {
		t.Errorf("the password is shown:\n%s", text)
	}
	p.release(t, instance)
	nothingLeft(t, instance)
}

// The account of an instance may do what its definition opens, in its namespace,
// and nothing else.
func TestRights(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, simple), nil)
	p.untilReady(t, instance)
	own, err := p.Clusters.Super(instance.Namespace, instance.UID)
	if err != nil {
		t.Fatal(err)
	}
	for name, object := range map[string]client.Object{
		"another kind":      &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: "x"}},
		"another namespace": &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}},
		"more rights":       &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: "x"}},
		"cluster-wide":      &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x"}},
		"the ledger":        &abmv1alpha1.StepRecord{ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: "x"}},
		"a service account": &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: accounts, Name: "abm-" + string(instance.UID)}},
	} {
		limited, err := client.New(own.Config, client.Options{Scheme: scheme()})
		if err != nil {
			t.Fatal(err)
		}
		if err := limited.Create(t.Context(), object); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want forbidden", name, err)
		}
	}
	if err := own.Client.Get(t.Context(), client.ObjectKey{Namespace: instance.Namespace, Name: "acme-a"}, &corev1.ConfigMap{}); err != nil {
		t.Error(err)
	}
}

// A kind that is cluster-wide in the super cluster keeps anything from being written,
// though the definition opens it.
func TestNothingClusterWide(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, `
plans: [{name: small}]
access: {super: [{kind: ConfigMap}, {kind: Namespace}]}
steps:
- name: wide
  manifests:
    objects:
    - {id: a, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: before}}}
    - {id: b, template: {apiVersion: v1, kind: Namespace, metadata: {name: 'wide-${instance.uid}'}}}
`), nil)
	p.until(t, instance, func() bool { return stalled(instance, "kind Namespace of group \"\" is cluster-wide") })
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: instance.Namespace, Name: "before"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("the step was begun: %v", err)
	}
	p.release(t, instance)
	nothingLeft(t, instance)
}

// Attempts, and when the next may be, survive a restart.
func TestBackoffIsKept(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, strings.Replace(simple, "{limit: 3, initial: 1s, max: 1s}", "{initial: 1h, max: 24h}", 1)), nil)
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: "acme-a"}}
	if err := admin.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	p.until(t, instance, func() bool { return stalled(instance, "acme-a") })
	for range 3 {
		if _, err := start(t, &fault{}).look(t.Context(), instance); err != nil {
			t.Fatal(err)
		}
	}
	if got := records(t, instance)["one"]; got.Failures != 1 {
		t.Errorf("%d failures after restarts within the hour", got.Failures)
	}
	later := start(t, &fault{})
	later.ahead = 61 * time.Minute
	if _, err := later.look(t.Context(), instance); err != nil {
		t.Fatal(err)
	}
	got := records(t, instance)["one"]
	if wait := time.Until(got.NotBefore.Time); got.Failures != 2 || wait < 2*time.Hour {
		t.Errorf("%d failures, the next attempt in %s", got.Failures, wait)
	}
	p.release(t, instance)
}
