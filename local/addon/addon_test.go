package addon

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/local/golden"
	"github.com/bulkhead-dev/bulkhead/local/layout"
)

func TestObjects(t *testing.T) {
	objects, err := Objects(layout.DefaultSettings(), true)
	if err != nil {
		t.Fatal(err)
	}
	var all string
	deployments := map[client.ObjectKey]bool{}
	for _, object := range objects {
		data, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		all += "---\n" + string(data)
		if object.GetKind() == "Deployment" {
			deployments[client.ObjectKeyFromObject(object)] = true
		}
	}
	golden.Check(t, "addons.yaml", all)
	for _, key := range Deployments {
		if !deployments[key] {
			t.Errorf("Await waits for deployment %s, which is not among the addons", key)
		}
		delete(deployments, key)
	}
	for key := range deployments {
		t.Errorf("Await does not wait for deployment %s", key)
	}
}

// TestNoUpstream: CoreDNS does not start with a forward to nowhere.
func TestNoUpstream(t *testing.T) {
	for upstream, want := range map[bool]bool{true: true, false: false} {
		objects, err := Objects(layout.DefaultSettings(), upstream)
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range objects {
			corefile, ok, err := unstructured.NestedString(object.Object, "data", "Corefile")
			if err != nil || !ok {
				continue
			}
			if got := strings.Contains(corefile, "forward ."); got != want {
				t.Errorf("upstream %v: forwards %v\n%s", upstream, got, corefile)
			}
		}
	}
}

func TestAvailable(t *testing.T) {
	two := int32(2)
	good := appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Generation: 3},
		Spec:       appsv1.DeploymentSpec{Replicas: &two},
		Status:     appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2},
	}
	for name, change := range map[string]func(*appsv1.Deployment){
		"not seen yet":          func(d *appsv1.Deployment) { d.Status.ObservedGeneration = 2 },
		"one is missing":        func(d *appsv1.Deployment) { d.Status.AvailableReplicas = 1 },
		"one is of an old kind": func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 1 },
		"an old one is left":    func(d *appsv1.Deployment) { d.Status.Replicas = 3 },
	} {
		d := *good.DeepCopy()
		change(&d)
		if Available(&d) {
			t.Errorf("%s: available", name)
		}
	}
	if !Available(&good) {
		t.Error("not available when all is well")
	}
}
