package addon

import (
	"context"
	"strings"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/local/layout"
)

// TestApply lets a real apiserver judge the addons.
func TestApply(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	settings := layout.DefaultSettings()
	cluster := testenv.New(t, testenv.Options{ServiceCIDR: settings.ServiceCIDR.String()})
	if err := Apply(ctx, cluster.Client, settings, true); err != nil {
		t.Fatal(err)
	}
	before := versions(ctx, t, cluster.Client, settings)
	// Somebody else's change of a field of ours is undone, one of another stays.
	class := storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local-path"}}
	testenv.Change(t, cluster.Client, &class, func() {
		class.Annotations["storageclass.kubernetes.io/is-default-class"] = "false"
		class.Annotations["example.com/note"] = "mine"
	})
	if err := Apply(ctx, cluster.Client, settings, true); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Get(ctx, client.ObjectKey{Name: "local-path"}, &class); err != nil {
		t.Fatal(err)
	}
	if class.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" || class.Annotations["example.com/note"] != "mine" {
		t.Errorf("annotations after a second apply: %v", class.Annotations)
	}
	for name, version := range versions(ctx, t, cluster.Client, settings) {
		if !strings.HasPrefix(name, "StorageClass") && before[name] != version {
			t.Errorf("a second apply changed %s", name)
		}
	}
}

// versions returns the generation or, where there is none, the resource version of
// each addon object: status changes do not count.
func versions(ctx context.Context, t *testing.T, c client.Client, s layout.Settings) map[string]any {
	t.Helper()
	objects, err := Objects(s, true)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]any{}
	for _, object := range objects {
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(object.GroupVersionKind())
		if err := c.Get(ctx, client.ObjectKeyFromObject(object), have); err != nil {
			t.Fatal(err)
		}
		key := object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
		if generation := have.GetGeneration(); generation > 0 {
			found[key] = generation
		} else {
			found[key] = have.GetResourceVersion()
		}
	}
	return found
}
