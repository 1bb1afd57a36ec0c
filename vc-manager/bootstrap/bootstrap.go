// Package bootstrap says what vc-manager puts into a tenant's own cluster: what the
// platform's components may do there, and the add-ons. One file is one component.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bulkhead-dev/bulkhead/vc-manager/apply"
)

// parallel bounds the requests to one tenant's apiserver.
const parallel = 8

// Input is what the objects depend on.
type Input struct {
	// MetricsServer is the address of metrics-server's Service in the super cluster;
	// the zero address means that there is no metrics-server.
	MetricsServer netip.Addr
	// ClusterCA is the PEM certificate that verifies metrics-server.
	ClusterCA string
	// DNS is what serves the names of the tenant's Services.
	DNS DNS
}

// Objects are what has to be in the tenant's cluster.
func Objects(in Input) []client.Object {
	objects := append(admins(), syncer()...)
	objects = append(objects, vnAgent()...)
	objects = append(objects, tenantProxy()...)
	objects = append(objects, coreDNS(in.DNS)...)
	if in.MetricsServer.IsValid() {
		objects = append(objects, metricsServer(in)...)
	}
	return objects
}

// Apply brings the tenant's cluster to hold Objects. Their names are ours, so what
// a tenant has changed in them is set back; but a ConfigMap's content is a setting,
// and stays the tenant's once they have changed it.
func Apply(ctx context.Context, tenant client.Client, in Input) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, object := range Objects(in) {
		group.Go(func() error {
			manifest, err := apply.Manifest(object)
			if err != nil {
				return err
			}
			if err := applyManifest(ctx, tenant, manifest); err != nil {
				return fmt.Errorf("applying %s in the tenant's cluster: %w", apply.Describe(object), err)
			}
			return nil
		})
	}
	if !in.MetricsServer.IsValid() {
		group.Go(func() error { return removeMetricsServer(ctx, tenant) })
	}
	return group.Wait()
}

func applyManifest(ctx context.Context, tenant client.Client, manifest *unstructured.Unstructured) error {
	if manifest.GetKind() == "ConfigMap" {
		err := tenant.Apply(ctx, client.ApplyConfigurationFromUnstructured(manifest.DeepCopy()), client.FieldOwner(apply.FieldManager))
		if !apierrors.IsConflict(err) {
			return err
		}
		delete(manifest.Object, "data")
	}
	return tenant.Apply(ctx, client.ApplyConfigurationFromUnstructured(manifest), client.FieldOwner(apply.FieldManager), client.ForceOwnership)
}

// removeMetricsServer takes away what makes a tenant's apiserver expect one. Roles
// that are left are of no effect.
func removeMetricsServer(ctx context.Context, tenant client.Client) error {
	var problems []error
	for _, object := range metricsServer(Input{}) {
		if _, isRole := object.(*rbacv1.ClusterRole); isRole {
			continue
		}
		if err := tenant.Delete(ctx, object); err != nil && !apierrors.IsNotFound(err) {
			problems = append(problems, fmt.Errorf("deleting %s in the tenant's cluster: %w", apply.Describe(object), err))
		}
	}
	return errors.Join(problems...)
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules:      rules,
	}
}

func clusterRoleBinding(name, role string, subject rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{subject},
	}
}

func user(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}
