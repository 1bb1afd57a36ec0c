//go:build churn

package churn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// witness is the namespace of the objects that the model is tried with, and the name
// of each of them.
const witness = "witness"

// makeWitness makes one object of each kind in a tenant's cluster.
func makeWitness(ctx context.Context, c client.Client) error {
	at := metav1.ObjectMeta{Namespace: witness, Name: witness, Labels: map[string]string{"app": witness, churnPrefix + "color": "a"}}
	named := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	return createAll(ctx, c,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: witness, Labels: map[string]string{churnPrefix + "color": "a"}}},
		&corev1.ConfigMap{ObjectMeta: at, Data: map[string]string{"a": "1"}},
		&corev1.Secret{ObjectMeta: at, StringData: map[string]string{"a": "1"}},
		&corev1.ServiceAccount{ObjectMeta: at},
		&corev1.PersistentVolumeClaim{ObjectMeta: at, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(offeredClass),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}},
		&corev1.Service{ObjectMeta: at, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}}},
		&corev1.Endpoints{ObjectMeta: at, Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		}}},
		&networkingv1.NetworkPolicy{ObjectMeta: at, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": witness}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		}},
		&corev1.Pod{ObjectMeta: at, Spec: corev1.PodSpec{
			ServiceAccountName: witness,
			Containers: []corev1.Container{{Name: "main", Image: "example/a:1", Env: []corev1.EnvVar{{
				Name: "A", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: named(witness), Key: "a"}},
			}}}},
			Volumes: []corev1.Volume{
				{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: witness}}},
				{Name: "claim", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: witness}}},
			},
		}},
	)
}

func createAll(ctx context.Context, c client.Client, objects ...client.Object) error {
	for _, object := range objects {
		// The namespace's own ServiceAccount, and a pod's, may take a moment.
		if err := patiently(ctx, func(ctx context.Context) error { return client.IgnoreAlreadyExists(c.Create(ctx, object)) }); err != nil {
			return fmt.Errorf("creating %T: %w", object, err)
		}
	}
	return nil
}

// brief is what a test expects of a finding.
func (f finding) brief() string {
	return strings.TrimSpace(strings.Join(append([]string{string(f.Fault), f.Side, f.Kind, f.Object}, f.Fields...), " "))
}

func briefs(findings []finding) []string {
	var all []string
	for _, f := range findings {
		all = append(all, f.brief())
	}
	slices.Sort(all)
	return all
}

// prove makes the model find faults, and the syncer mend them, with the first tenant.
func (f *fleet) prove(t *testing.T) {
	t.Helper()
	ctx, tn := t.Context(), f.tenants[0]
	// Only the witness's pod is on a node.
	for i := range nodeCount {
		must(t, addNode(ctx, f.super.Client, i))
		must(t, change(ctx, f.super.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}, func(node *corev1.Node) { node.Spec.Unschedulable = false }))
	}
	var namespaces corev1.NamespaceList
	must(t, tn.cluster.Client.List(ctx, &namespaces))
	for _, namespace := range namespaces.Items {
		must(t, tn.cluster.Client.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(namespace.Name)))
	}
	must(t, makeWitness(ctx, tn.cluster.Client))
	must(t, patiently(ctx, func(ctx context.Context) error {
		pod, claim := &corev1.Pod{}, &corev1.PersistentVolumeClaim{}
		key := client.ObjectKey{Namespace: witness, Name: witness}
		if err := errors.Join(tn.cluster.Client.Get(ctx, key, pod), tn.cluster.Client.Get(ctx, key, claim)); err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodRunning || claim.Status.Phase != corev1.ClaimBound {
			return fmt.Errorf("the witness's pod is %s, its claim %s", pod.Status.Phase, claim.Status.Phase)
		}
		return nil
	}))
	f.quiet(t)
	super, views, err := f.states(ctx)
	must(t, err)
	proveModel(t, super, views)

	f.syncer.kill()
	expected := f.breakByHand(t, tn)
	super, views, err = f.states(ctx)
	must(t, err)
	slices.Sort(expected)
	if diff := cmp.Diff(expected, briefs(check(super, views))); diff != "" {
		t.Errorf("findings after the clusters were changed by hand, without a syncer (-want +got):\n%s", diff)
	}
	// The syncer looks for what stands for an object where it would be alone: what has its
	// marks elsewhere was made by somebody, and stays.
	for _, name := range []string{"twin", "of-nothing"} {
		must(t, f.super.Client.Delete(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: views[0].SuperNamespace(witness), Name: name}}))
	}
	must(t, f.syncer.start())
	f.quiet(t)
}

// breakByHand changes both clusters while no syncer runs, and returns what the model
// has to find.
func (f *fleet) breakByHand(t *testing.T, tn *tenant) []string {
	t.Helper()
	ctx, down := t.Context(), tn.view(nil).SuperNamespace(witness)
	at := metav1.ObjectMeta{Namespace: down, Name: witness}
	must(t, f.super.Client.Delete(ctx, &corev1.ConfigMap{ObjectMeta: at}))
	must(t, change(ctx, f.super.Client, &corev1.Secret{ObjectMeta: at}, func(object *corev1.Secret) { object.Data["a"] = []byte("changed") }))
	must(t, change(ctx, f.super.Client, &corev1.Service{ObjectMeta: at}, func(object *corev1.Service) { object.Spec.Ports[0].Port = 4242 }))
	account := &corev1.ServiceAccount{}
	must(t, f.super.Client.Get(ctx, client.ObjectKey{Namespace: down, Name: witness}, account))
	account.ObjectMeta = metav1.ObjectMeta{Namespace: down, Name: "twin", Labels: account.Labels, Annotations: account.Annotations}
	must(t, f.super.Client.Create(ctx, account))
	anotherOrigin(account)
	account.ObjectMeta = metav1.ObjectMeta{Namespace: down, Name: "of-nothing", Labels: account.Labels, Annotations: account.Annotations}
	must(t, f.super.Client.Create(ctx, account))
	must(t, tn.cluster.Client.Delete(ctx, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: witness, Name: witness}}))
	must(t, tn.cluster.Client.Delete(ctx, storageClass()))
	return []string{
		"lost super configmaps " + witnessed,
		"wrong super secrets " + witnessed + " data",
		"wrong super services " + witnessed + " spec.ports",
		"duplicated super serviceaccounts " + witnessed,
		"orphaned super serviceaccounts witness/gone",
		"orphaned super networkpolicies " + witnessed,
		"wrong super pods " + witnessed + " metadata.labels[" + tenancy.LabelIngressIsolated + "]",
		"lost tenant storageclasses " + offeredClass,
	}
}

// proveModel shows that the model sees each way in which the clusters can be wrong: it
// is asked about states in which one thing was changed.
func proveModel(t *testing.T, super *state, views []view) {
	t.Helper()
	if found := check(super, views); len(found) > 0 {
		t.Fatalf("the model is tried with clusters that are not alike: %v", found)
	}
	down := views[0].SuperNamespace(witness)
	node, volume := in(super.Pods.Items, down, witness).Spec.NodeName, in(super.Claims.Items, down, witness).Spec.VolumeName
	for name, change := range mutations(down, node, volume) {
		t.Run(name, func(t *testing.T) {
			mutant, of := super.copied(), views[0]
			of.state = of.copied()
			change.do(mutant, of.state)
			got := briefs(check(mutant, append([]view{of}, views[1:]...)))
			slices.Sort(change.want)
			if diff := cmp.Diff(change.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// mutation is one thing that goes wrong, and what the model has to say of it.
type mutation struct {
	do   func(super, tenant *state)
	want []string
}

// remove takes an object out of a list.
func remove[T any](items *[]T, namespace string, names ...string) {
	*items = slices.DeleteFunc(*items, func(item T) bool {
		object := any(&item).(client.Object)
		return object.GetNamespace() == namespace && (len(names) == 0 || slices.Contains(names, object.GetName()))
	})
}

// in finds an object in a list.
func in[T any](items []T, namespace, name string) *T { return index(items)[join(namespace, name)] }

// twin adds a copy of an object under another name.
func twin[T any](items *[]T, namespace, name string, edit func(object client.Object)) {
	object := *in(*items, namespace, name)
	added := any(&object).(client.Object).DeepCopyObject().(client.Object)
	added.SetName("twin")
	added.SetUID("twin")
	if edit != nil {
		edit(added)
	}
	*items = append(*items, *any(added).(*T))
}

// anotherOrigin makes a super object stand for a tenant object that there is not.
func anotherOrigin(object client.Object) {
	annotations := object.GetAnnotations()
	annotations[tenancy.AnnotationName] = "gone"
	object.SetAnnotations(annotations)
}
