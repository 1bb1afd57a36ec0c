package engine

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// accounts is the namespace of the ServiceAccounts that ABM acts as.
const accounts = "bulkhead-abm"

// super is the super cluster and tenant the cluster of all virtual clusters of these
// tests, with garbage collection each.
var (
	super, tenant *testenv.Cluster
	admin         client.Client
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "abm-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for _, each := range []struct {
		into *(*testenv.Cluster)
		name string
		crds bool
	}{{&super, "super", true}, {&tenant, "tenant", false}} {
		path := filepath.Join(dir, each.name)
		if err := os.Mkdir(path, 0o700); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if *each.into, err = testenv.Start(context.Background(), path, testenv.Options{ControllerManager: true, CRDs: each.crds}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer (*each.into).Stop()
	}
	if admin, err = client.New(super.Config, client.Options{Scheme: scheme()}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := admin.Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: accounts}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// They wait for the clusters more than for a processor.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func scheme() *runtime.Scheme {
	scheme := testenv.Scheme()
	utilruntime.Must(abmv1alpha1.AddToScheme(scheme))
	return scheme
}
