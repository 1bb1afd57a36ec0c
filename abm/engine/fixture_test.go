package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/abm/cluster"
	"github.com/bulkhead-dev/bulkhead/abm/step"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// patience bounds every wait of the tests, on a machine that has other things to do.
const patience = 2 * time.Minute

// fault ends a process at a write: from then on nothing it sends arrives anywhere.
type fault struct {
	mu sync.Mutex
	// at is the number of the write that the process ends at; 0 for never.
	at int
	// late lets that write arrive, and loses its answer.
	late   bool
	writes int
	dead   bool
}

var errDead = errors.New("the process has ended")

func (f *fault) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		f.mu.Lock()
		write := request.Method != http.MethodGet && request.Method != http.MethodHead
		if write && !f.dead {
			f.writes++
			if f.at > 0 && f.writes == f.at {
				f.dead = true
				if f.late {
					f.mu.Unlock()
					if response, err := next.RoundTrip(request); err == nil {
						response.Body.Close()
					}
					return nil, errDead
				}
			}
		}
		dead := f.dead
		f.mu.Unlock()
		if dead {
			return nil, errDead
		}
		return next.RoundTrip(request)
	})
}

func (f *fault) isDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }

// process is one life of ABM.
type process struct {
	*Reconciler
	definitions *Definitions
	fault       *fault
	events      *recorder
	// ahead is how far its clock is ahead.
	ahead time.Duration
}

func start(t *testing.T, f *fault) *process {
	t.Helper()
	config := rest.CopyConfig(super.Config)
	config.Wrap(f.wrap)
	writer, err := client.New(config, client.Options{Scheme: scheme()})
	if err != nil {
		t.Fatal(err)
	}
	p := &process{fault: f, events: &recorder{}}
	p.Reconciler = &Reconciler{
		Client: writer, Live: writer, Recorder: p.events,
		Now:  func() time.Time { return time.Now().Add(p.ahead) },
		HTTP: step.HTTP{Wrap: f.wrap},
		Clusters: &cluster.Clusters{
			Config: config, Live: writer, Mapper: writer.RESTMapper(), AccountNamespace: accounts,
			TenantConfig: func(_ tenancy.Tenant, data []byte) (*rest.Config, error) {
				config, err := kubeconfig.RESTConfig(data)
				if err == nil {
					config.Wrap(f.wrap)
				}
				return config, err
			},
		},
	}
	if err := p.Register(prometheus.NewRegistry()); err != nil {
		t.Fatal(err)
	}
	p.definitions = &Definitions{Client: writer, Live: writer, Recorder: p.events}
	return p
}

// recorder keeps events as text.
type recorder struct {
	mu   sync.Mutex
	text strings.Builder
}

var _ events.EventRecorder = &recorder{}

func (r *recorder) Eventf(_, _ runtime.Object, eventType, reason, _, note string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.text, "%s %s: %s\n", eventType, reason, fmt.Sprintf(note, args...))
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// define makes a definition under a name of its own, and its revision.
func define(t *testing.T, text string) string {
	t.Helper()
	name := "svc-" + rand.String(6)
	redefine(t, name, text)
	return name
}

func redefine(t *testing.T, name, text string) string {
	t.Helper()
	definition := &abmv1alpha1.ServiceDefinition{}
	key := client.ObjectKey{Name: name}
	var spec abmv1alpha1.ServiceSpec
	if err := yaml.UnmarshalStrict([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	err := admin.Get(t.Context(), key, definition)
	definition.Name, definition.Spec = name, spec
	if apierrors.IsNotFound(err) {
		err = admin.Create(t.Context(), definition)
	} else if err == nil {
		err = admin.Update(t.Context(), definition)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, &fault{}).definitions.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
		t.Fatal(err)
	}
	if err := admin.Get(t.Context(), key, definition); err != nil {
		t.Fatal(err)
	}
	if condition := meta.FindStatusCondition(definition.Status.Conditions, abmv1alpha1.ConditionAccepted); condition == nil || condition.Status != metav1.ConditionTrue {
		t.Fatalf("the definition is not accepted: %+v", condition)
	}
	return definition.Status.LatestRevision
}

// buy makes an instance in a namespace of its own.
func buy(t *testing.T, service string, change func(*abmv1alpha1.ServiceInstance)) *abmv1alpha1.ServiceInstance {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "buyer-"}}
	if err := admin.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	instance := &abmv1alpha1.ServiceInstance{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: "acme"},
		Spec:       abmv1alpha1.ServiceInstanceSpec{ServiceName: service, PlanName: "small"},
	}
	if change != nil {
		change(instance)
	}
	if err := admin.Create(t.Context(), instance); err != nil {
		t.Fatal(err)
	}
	return instance
}

// look has ABM look at an instance once, and reads what it made of it.
func (p *process) look(ctx context.Context, instance *abmv1alpha1.ServiceInstance) (gone bool, err error) {
	_, problem := p.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(instance)})
	if p.fault.isDead() {
		return false, errDead
	}
	serveVirtualClusters(ctx, instance.Namespace)
	err = admin.Get(ctx, client.ObjectKeyFromObject(instance), instance)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, problem
}

// until looks at an instance until it is as wanted.
func (p *process) until(t *testing.T, instance *abmv1alpha1.ServiceInstance, wanted func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		gone, err := p.look(ctx, instance)
		if errors.Is(err, errDead) || gone || wanted() {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the instance is not as wanted in time (last error: %v):\n%s\n%s", err, describeInstance(instance), p.events)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (p *process) untilReady(t *testing.T, instance *abmv1alpha1.ServiceInstance) {
	t.Helper()
	p.until(t, instance, func() bool { return isReady(instance) })
}

func isReady(instance *abmv1alpha1.ServiceInstance) bool {
	condition := meta.FindStatusCondition(instance.Status.Conditions, abmv1alpha1.ConditionReady)
	return condition != nil && condition.Status == metav1.ConditionTrue && condition.ObservedGeneration == instance.Generation
}

// release deletes an instance and looks at it until it is gone.
func (p *process) release(t *testing.T, instance *abmv1alpha1.ServiceInstance) {
	t.Helper()
	deleteInstance(t, instance)
	p.until(t, instance, func() bool { return false })
}

func deleteInstance(t *testing.T, instance *abmv1alpha1.ServiceInstance) {
	t.Helper()
	if err := admin.Delete(t.Context(), instance.DeepCopy()); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}

func describeInstance(instance *abmv1alpha1.ServiceInstance) string {
	data, _ := yaml.Marshal(instance.Status)
	return string(data)
}

// serveVirtualClusters does vc-manager's part for the virtual clusters in a
// namespace: their kubeconfigs lead to the tenant cluster.
func serveVirtualClusters(ctx context.Context, namespace string) {
	var clusters tenancyv1alpha1.VirtualClusterList
	if err := admin.List(ctx, &clusters, client.InNamespace(namespace)); err != nil {
		return
	}
	for _, vc := range clusters.Items {
		if meta.IsStatusConditionTrue(vc.Status.Conditions, "Ready") || vc.DeletionTimestamp != nil {
			continue
		}
		owner := tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name}
		controlPlane := owner.ControlPlaneNamespace()
		_ = admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: controlPlane}})
		_ = admin.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: controlPlane, Name: tenancy.AdminKubeconfigSecret},
			Data:       map[string][]byte{tenancy.KubeconfigKey: tenant.Kubeconfig},
		})
		vc.Status.ControlPlaneNamespace = controlPlane
		meta.SetStatusCondition(&vc.Status.Conditions, metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Test"})
		_ = admin.Status().Update(ctx, &vc)
	}
}

// leftovers are all objects of the instance in both clusters, of the kinds that the
// tests use, and whatever ABM made for itself.
func leftovers(t *testing.T, instance *abmv1alpha1.ServiceInstance) []string {
	t.Helper()
	var found []string
	for where, reader := range map[string]client.Client{"super": admin, "tenant": tenant.Client} {
		lists := []client.ObjectList{
			&corev1.ConfigMapList{}, &corev1.SecretList{}, &corev1.NamespaceList{}, &corev1.ServiceList{},
			&rbacv1.RoleList{}, &rbacv1.RoleBindingList{},
		}
		if where == "super" {
			lists = append(lists, &tenancyv1alpha1.VirtualClusterList{}, &abmv1alpha1.StepRecordList{})
		}
		for _, list := range lists {
			if err := reader.List(t.Context(), list, client.MatchingLabels{abmv1alpha1.LabelInstanceUID: string(instance.UID)}); err != nil {
				t.Fatal(err)
			}
			if err := meta.EachListItem(list, func(object runtime.Object) error {
				each := object.(client.Object)
				found = append(found, fmt.Sprintf("%s %T %s/%s", where, object, each.GetNamespace(), each.GetName()))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return found
}

func nothingLeft(t *testing.T, instance *abmv1alpha1.ServiceInstance) {
	t.Helper()
	if found := leftovers(t, instance); len(found) > 0 {
		t.Errorf("release left:\n%s", strings.Join(found, "\n"))
	}
}

func rawJSON(t *testing.T, value any) *runtime.RawExtension {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return &runtime.RawExtension{Raw: bytes.TrimSpace(data)}
}

func records(t *testing.T, instance *abmv1alpha1.ServiceInstance) map[string]abmv1alpha1.StepRecord {
	t.Helper()
	var list abmv1alpha1.StepRecordList
	if err := admin.List(t.Context(), &list, client.InNamespace(instance.Namespace)); err != nil {
		t.Fatal(err)
	}
	result := map[string]abmv1alpha1.StepRecord{}
	for _, record := range list.Items {
		result[record.Step] = record
	}
	return result
}
