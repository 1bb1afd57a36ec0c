package testenv

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

// Grant gives a user exactly the rules in all of the cluster, and returns a kubeconfig
// for it.
func (c *Cluster) Grant(ctx context.Context, user string, rules []rbacv1.PolicyRule) ([]byte, error) {
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}
	if err := c.Client.Create(ctx, role); err != nil {
		return nil, fmt.Errorf("granting rules to %s: %w", user, err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	if err := c.Client.Create(ctx, binding); err != nil {
		return nil, fmt.Errorf("granting rules to %s: %w", user, err)
	}
	return c.Credentials(user)
}

// Credentials makes a kubeconfig for a user of the cluster, whatever its rights.
func (c *Cluster) Credentials(user string) ([]byte, error) {
	pair, err := c.CA.Issue(pki.Leaf{CommonName: user, Usage: pki.Client})
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate for %s: %w", user, err)
	}
	return kubeconfig.Encode(kubeconfig.Config{Name: "test", Server: c.Config.Host, CA: c.CA.Cert, User: user, Client: pair})
}
