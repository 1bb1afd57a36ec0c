package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

var (
	cluster *testenv.Cluster
	tenant  = tenancy.Tenant{UID: "tenant-uid", Namespace: "team", Name: "demo"}
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "apply-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if cluster, err = testenv.Start(context.Background(), dir, testenv.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cluster.Stop()
	return m.Run()
}

func applier() *Applier { return &Applier{Writer: cluster.Client, Live: cluster.Client} }

func newNamespace(t *testing.T) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "apply-"}}
	if err := cluster.Client.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	return namespace.Name
}

func configMap(namespace string, data map[string]string) *corev1.ConfigMap {
	object := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "settings"},
		Data:       data,
	}
	tenancy.MarkTenant(object, tenant, tenancy.ManagedByManager)
	return object
}

func deployment(namespace string, args ...string) *appsv1.Deployment {
	labels := map[string]string{"app": "x"}
	object := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "x"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](1),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "x", Image: "x", Args: args, Env: []corev1.EnvVar{{Name: "MODE", Value: "a"}},
				}}},
			},
		},
	}
	tenancy.MarkTenant(object, tenant, tenancy.ManagedByManager)
	return object
}

func one(t *testing.T, wanted client.Object) client.Object {
	t.Helper()
	stored, err := applier().One(t.Context(), cluster.Client, tenant, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func get(t *testing.T, object client.Object) {
	t.Helper()
	if err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsWrittenTwice(t *testing.T) {
	namespace := newNamespace(t)
	for _, wanted := range []client.Object{configMap(namespace, map[string]string{"a": "1"}), deployment(namespace, "--a")} {
		first := one(t, wanted)
		if again := one(t, wanted); again.GetResourceVersion() != first.GetResourceVersion() {
			t.Errorf("%s was written again: version %s became %s", Describe(wanted), first.GetResourceVersion(), again.GetResourceVersion())
		}
	}
}

func TestDriftIsSetRight(t *testing.T) {
	namespace := newNamespace(t)
	for name, drift := range map[string]func(*appsv1.Deployment){
		"argument changed": func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Args[0] = "--evil" },
		"argument added": func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].Args = append(d.Spec.Template.Spec.Containers[0].Args, "--evil")
		},
		"scaled to zero": func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) },
	} {
		one(t, deployment(namespace, "--a", "--b"))
		changed := deployment(namespace)
		testenv.Change(t, cluster.Client, changed, func() { drift(changed) }, client.FieldOwner("somebody"))
		one(t, deployment(namespace, "--a", "--b"))
		got := deployment(namespace)
		get(t, got)
		if diff := cmp.Diff([]string{"--a", "--b"}, got.Spec.Template.Spec.Containers[0].Args); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if *got.Spec.Replicas != 1 {
			t.Errorf("%s: %d replicas", name, *got.Spec.Replicas)
		}
	}
}

// What a later version of vc-manager does not want any more goes, though Create
// recorded it under another operation than Apply does.
func TestWhatIsNotWantedAnyMoreGoes(t *testing.T) {
	namespace := newNamespace(t)
	one(t, configMap(namespace, map[string]string{"a": "1", "b": "2"}))
	others := configMap(namespace, nil)
	testenv.Change(t, cluster.Client, others, func() { others.Data["theirs"] = "3" }, client.FieldOwner("somebody"))
	one(t, configMap(namespace, map[string]string{"a": "1"}))
	got := configMap(namespace, nil)
	get(t, got)
	if diff := cmp.Diff(map[string]string{"a": "1", "theirs": "3"}, got.Data); diff != "" {
		t.Error(diff)
	}
	withoutEnv := deployment(namespace)
	one(t, deployment(namespace))
	withoutEnv.Spec.Template.Spec.Containers[0].Env = nil
	one(t, withoutEnv)
	get(t, withoutEnv)
	if env := withoutEnv.Spec.Template.Spec.Containers[0].Env; len(env) > 0 {
		t.Errorf("environment %v is left", env)
	}
}

func TestForeignObjectsAreLeftAlone(t *testing.T) {
	for name, labels := range map[string]map[string]string{
		"nobody's":          nil,
		"another tenant's":  {tenancy.LabelTenant: "other", tenancy.LabelManagedBy: tenancy.ManagedByManager},
		"another component": {tenancy.LabelTenant: string(tenant.UID), tenancy.LabelManagedBy: tenancy.ManagedBySyncer},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := newNamespace(t)
			theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "settings", Labels: labels}, Data: map[string]string{"a": "theirs"}}
			if err := cluster.Client.Create(t.Context(), theirs); err != nil {
				t.Fatal(err)
			}
			wanted := configMap(namespace, map[string]string{"a": "ours"})
			var foreign *tenancy.ForeignError
			if _, err := applier().One(t.Context(), cluster.Client, tenant, wanted); !errors.As(err, &foreign) {
				t.Errorf("error %v", err)
			}
			// Not even where a cache has not seen it yet.
			if _, err := applier().One(t.Context(), emptyCache{cluster.Client}, tenant, wanted); !errors.As(err, &foreign) {
				t.Errorf("with a stale cache: error %v", err)
			}
			if _, err := applier().Delete(t.Context(), tenant, wanted); !errors.As(err, &foreign) {
				t.Errorf("deleting: error %v", err)
			}
			after := configMap(namespace, nil)
			get(t, after)
			if after.ResourceVersion != theirs.ResourceVersion {
				t.Errorf("it was changed: %v", after)
			}
		})
	}
}

// emptyCache has seen nothing yet.
type emptyCache struct{ client.Reader }

func (emptyCache) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(corev1.Resource("any"), key.Name)
}

// replaced shows an object as it was before somebody replaced it.
type replaced struct {
	client.Reader
	before client.Object
}

func (r replaced) Get(_ context.Context, _ client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	r.before.(*corev1.ConfigMap).DeepCopyInto(into.(*corev1.ConfigMap))
	return nil
}

// Between our look at an object and our write to it, somebody may replace it.
func TestAReplacedObjectIsLeftAlone(t *testing.T) {
	namespace := newNamespace(t)
	one(t, configMap(namespace, map[string]string{"a": "1"}))
	before := configMap(namespace, nil)
	get(t, before)
	if err := cluster.Client.Delete(t.Context(), before.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "settings"}}
	if err := cluster.Client.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	late := &Applier{Writer: cluster.Client, Live: replaced{cluster.Client, before}}
	if _, err := late.One(t.Context(), late.Live, tenant, configMap(namespace, map[string]string{"a": "2"})); !apierrors.IsConflict(err) {
		t.Errorf("changing: %v, want a conflict", err)
	}
	if _, err := late.Delete(t.Context(), tenant, configMap(namespace, nil)); !apierrors.IsConflict(err) {
		t.Errorf("deleting: %v, want a conflict", err)
	}
	after := configMap(namespace, nil)
	get(t, after)
	if after.UID != theirs.UID || len(after.Data) > 0 {
		t.Errorf("it was touched: %v", after)
	}
}

func TestDelete(t *testing.T) {
	namespace := newNamespace(t)
	wanted := configMap(namespace, nil)
	one(t, wanted)
	if _, err := applier().Delete(t.Context(), tenant, wanted); err != nil {
		t.Fatal(err)
	}
	if gone, err := applier().Delete(t.Context(), tenant, wanted); err != nil || !gone {
		t.Errorf("gone %v, error %v", gone, err)
	}
}

// One that fails keeps none of the others from being made.
func TestAllGoesOn(t *testing.T) {
	namespace := newNamespace(t)
	nameless := configMap(namespace, nil)
	nameless.Name = ""
	good := configMap(namespace, map[string]string{"a": "1"})
	if _, err := applier().All(t.Context(), cluster.Client, tenant, []client.Object{nameless, good}); err == nil {
		t.Error("no error for an object without a name")
	}
	get(t, good)
}

func TestSecretsHaveNoHash(t *testing.T) {
	secret := &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: newNamespace(t), Name: "key"},
		Data:       map[string][]byte{"key": []byte("guessable")},
	}
	tenancy.MarkTenant(secret, tenant, tenancy.ManagedByManager)
	if hash := one(t, secret).GetAnnotations()[AnnotationManifest]; hash != "" {
		t.Errorf("hash %s", hash)
	}
	secret.Data["key"] = []byte("guess")
	one(t, secret)
	got := secret.DeepCopy()
	get(t, got)
	if string(got.Data["key"]) != "guess" {
		t.Errorf("a shorter key was not written: %q", got.Data["key"])
	}
}
