//go:build churn

package churn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/rbac"
)

// patience is how long anything may take on a loaded machine before a test fails.
const patience = 3 * time.Minute

// farewell is how long a virtual cluster may take to go. The namespace controller of a
// super cluster that was away comes back to a namespace only after a minute or more.
const farewell = 10 * time.Minute

// callTimeout bounds one call of an actor: an apiserver that has been killed does not answer.
const callTimeout = 5 * time.Second

// fleet is a super cluster, tenants' clusters and a syncer between them.
type fleet struct {
	t        *testing.T
	settings settings
	dir      string
	super    *testenv.Cluster
	tenants  []*tenant
	syncer   *program
	// superFaults is held by whoever breaks or mends the super cluster.
	superFaults sync.Mutex
}

// tenant is a virtual cluster, which may be deleted and made again.
type tenant struct {
	index   int
	cluster *testenv.Cluster
	pool    string
	// faults is held by whoever breaks or mends the tenant's cluster, or replaces it.
	faults sync.Mutex

	mu sync.Mutex
	of tenancy.Tenant
}

func (tn *tenant) view(s *state) view {
	tn.mu.Lock()
	defer tn.mu.Unlock()
	return view{Tenant: tn.of, state: s, Pool: tn.pool}
}

func (tn *tenant) name() string { return fmt.Sprintf("churn-%d", tn.index) }

// newFleet starts everything, two clusters at a time.
func newFleet(t *testing.T, s settings) *fleet {
	t.Helper()
	f := &fleet{t: t, settings: s, dir: s.Dir}
	if f.dir == "" {
		f.dir = t.TempDir()
	}
	clusters := make([]*testenv.Cluster, s.Tenants+1)
	problems := make([]error, len(clusters))
	var group sync.WaitGroup
	slots := make(chan struct{}, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	for i := range clusters {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			dir := filepath.Join(f.dir, fmt.Sprintf("cluster-%d", i))
			if problems[i] = os.MkdirAll(dir, 0o700); problems[i] == nil {
				clusters[i], problems[i] = testenv.Start(ctx, dir, testenv.Options{ControllerManager: true, CRDs: i == 0})
			}
		})
	}
	group.Wait()
	for _, cluster := range clusters {
		if cluster != nil {
			t.Cleanup(cluster.Stop)
		}
	}
	must(t, errors.Join(problems...))
	f.super = clusters[0]
	f.setUpSuper()
	for i := range s.Tenants {
		tn := &tenant{index: i, cluster: clusters[i+1]}
		if i%3 == 2 {
			tn.pool = "selected"
		}
		f.tenants = append(f.tenants, tn)
		must(t, f.create(ctx, tn))
	}
	return f
}

// setUpSuper makes what the platform team has in the super cluster.
func (f *fleet) setUpSuper() {
	ctx := f.t.Context()
	must(f.t, f.super.Client.Create(ctx, &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: offeredClass, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: provisioner, AllowVolumeExpansion: ptr.To(true),
	}))
	must(f.t, f.super.Client.Create(ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "internal"}, Provisioner: provisioner}))
	for name, nodes := range map[string]tenancyv1alpha1.NodesSpec{
		"on-demand": {Mode: tenancyv1alpha1.NodesOnDemand},
		"selected":  {Mode: tenancyv1alpha1.NodesSelected, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{poolLabel: "selected"}}},
	} {
		must(f.t, f.super.Client.Create(ctx, &tenancyv1alpha1.VirtualClusterClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: tenancyv1alpha1.VirtualClusterClassSpec{Nodes: nodes},
		}))
	}
	must(f.t, f.super.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: platformNamespace}}))
}

// create does what a tenant and vc-manager do: the virtual cluster, and the syncer's
// credentials in its control plane's namespace.
func (f *fleet) create(ctx context.Context, tn *tenant) error {
	kubeconfig, err := tn.cluster.Grant(ctx, tenancy.UserSyncer, rbac.TenantRules())
	if err != nil {
		return err
	}
	class := "on-demand"
	if tn.pool != "" {
		class = tn.pool
	}
	return patiently(ctx, func(ctx context.Context) error {
		vc := &tenancyv1alpha1.VirtualCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: tn.name()}, Spec: tenancyv1alpha1.VirtualClusterSpec{ClassName: class},
		}
		if err := f.super.Client.Create(ctx, vc); apierrors.IsAlreadyExists(err) {
			if err := f.super.Client.Get(ctx, client.ObjectKeyFromObject(vc), vc); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		of := tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name}
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: of.ControlPlaneNamespace()}}
		tenancy.MarkTenant(namespace, of, tenancy.ManagedByManager)
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: tenancy.SyncerKubeconfigSecret},
			Data:       map[string][]byte{tenancy.KubeconfigKey: kubeconfig},
		}
		tenancy.MarkTenant(secret, of, tenancy.ManagedByManager)
		for _, object := range []client.Object{namespace, secret} {
			if err := f.super.Client.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
				return err
			}
		}
		before := vc.DeepCopy()
		meta.SetStatusCondition(&vc.Status.Conditions, metav1.Condition{Type: tenancyv1alpha1.ConditionAPIServerReady, Status: metav1.ConditionTrue, Reason: "Test"})
		if err := f.super.Client.Status().Patch(ctx, vc, client.MergeFrom(before)); err != nil {
			return err
		}
		tn.mu.Lock()
		tn.of = of
		tn.mu.Unlock()
		return nil
	})
}

// replace deletes the virtual cluster and makes another one of its name, with an
// empty control plane at the same address.
func (f *fleet) replace(ctx context.Context, tn *tenant) error {
	tn.mu.Lock()
	of := tn.of
	tn.mu.Unlock()
	vc := &tenancyv1alpha1.VirtualCluster{}
	vc.Namespace, vc.Name = of.Namespace, of.Name
	err := patiently(ctx, func(ctx context.Context) error { return client.IgnoreNotFound(f.super.Client.Delete(ctx, vc)) })
	if err != nil {
		return fmt.Errorf("deleting virtual cluster %s: %w", of, err)
	}
	if err := within(ctx, farewell, func(ctx context.Context) error {
		switch err := f.super.Client.Get(ctx, client.ObjectKeyFromObject(vc), vc); {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		}
		condition := meta.FindStatusCondition(vc.Status.Conditions, tenancyv1alpha1.ConditionSynced)
		return fmt.Errorf("it is still there: %+v", condition)
	}); err != nil {
		return fmt.Errorf("waiting for virtual cluster %s to go: %w", of, err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: of.ControlPlaneNamespace()}}
	if err := patiently(ctx, func(ctx context.Context) error { return client.IgnoreNotFound(f.super.Client.Delete(ctx, namespace)) }); err != nil {
		return fmt.Errorf("deleting namespace %s: %w", namespace.Name, err)
	}
	if err := tn.cluster.Wipe(ctx); err != nil {
		return err
	}
	return f.create(ctx, tn)
}

// states reads all clusters.
func (f *fleet) states(ctx context.Context) (*state, []view, error) {
	super, err := readState(ctx, f.super.Client)
	if err != nil {
		return nil, nil, fmt.Errorf("the super cluster: %w", err)
	}
	var views []view
	for _, tn := range f.tenants {
		of, err := readState(ctx, tn.cluster.Client)
		if err != nil {
			return nil, nil, fmt.Errorf("tenant %s: %w", tn.name(), err)
		}
		views = append(views, tn.view(of))
	}
	return super, views, nil
}

// settle waits until the model finds nothing wrong, twice in a row, and returns what
// it has found last.
func (f *fleet) settle(ctx context.Context) []finding {
	var last []finding
	clean, began, told := 0, time.Now(), time.Now()
	err := wait.PollUntilContextTimeout(ctx, time.Second, patience, true, func(ctx context.Context) (bool, error) {
		super, views, err := f.states(ctx)
		if err != nil {
			f.t.Logf("reading the clusters: %v", err)
			return false, nil
		}
		last = check(super, views)
		if len(last) > 0 {
			clean = 0
			if time.Since(told) > 20*time.Second {
				told = time.Now()
				f.t.Logf("after %s there are %d findings: %s", time.Since(began).Round(time.Second), len(last), last[:min(len(last), 5)])
			}
			return false, nil
		}
		clean++
		return clean > 1, nil
	})
	if err == nil {
		f.t.Logf("quiet after %s", time.Since(began).Round(100*time.Millisecond))
	}
	return last
}

// patiently tries again until it works: what is asked may have been killed.
func patiently(ctx context.Context, attempt func(context.Context) error) error {
	return within(ctx, patience, attempt)
}

func within(ctx context.Context, limit time.Duration, attempt func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, limit, true, func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		err := attempt(ctx)
		if err == nil || ctx.Err() == nil {
			last = err
		}
		return err == nil, nil
	})
	if err != nil && last != nil {
		return last
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
