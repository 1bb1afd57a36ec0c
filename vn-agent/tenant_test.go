package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// tenantCluster is a virtual cluster as vc-manager and syncer would have made it.
type tenantCluster struct {
	tenancy.Tenant
	*testenv.Cluster
	vc     *tenancyv1alpha1.VirtualCluster
	ca     *pki.CA
	client pki.Pair
	pod    *corev1.Pod
	// options are what its apiserver runs with.
	options testenv.Options
}

func (t *tenantCluster) cluster() *testenv.Cluster {
	if t == nil {
		return nil
	}
	return t.Cluster
}

// start runs a tenant's control plane that shows vn-agent what vc-manager's would.
func (t *tenantCluster) start(ctx context.Context, dir string, servingCA *pki.CA) error {
	var err error
	if t.ca, err = pki.NewCA("kubelet-client-ca"); err != nil {
		return err
	}
	t.client, err = t.ca.Issue(pki.Leaf{CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}, Usage: pki.Client})
	if err != nil {
		return err
	}
	files := map[string][]byte{"client.crt": t.client.Cert, "client.key": t.client.Key, "ca.crt": servingCA.Cert}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, t.Namespace+"-"+name), data, 0o600); err != nil {
			return err
		}
	}
	prefix := filepath.Join(dir, t.Namespace+"-")
	t.options = testenv.Options{APIServerArgs: []string{
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-certificate-authority=" + prefix + "ca.crt",
		"--kubelet-client-certificate=" + prefix + "client.crt", "--kubelet-client-key=" + prefix + "client.key",
	}}
	t.Cluster, err = startCluster(ctx, dir, t.Namespace, t.options)
	return err
}

// fill makes in the tenant's cluster what the tenant and the syncer would have.
func (t *tenantCluster) fill(ctx context.Context, agent string) error {
	_, port, err := net.SplitHostPort(agent)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "default"}},
		&rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: tenancy.UserVNAgent},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}}},
		},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: tenancy.UserVNAgent},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: tenancy.UserVNAgent},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: tenancy.UserVNAgent}},
		},
		&rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "metrics-reader"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes/metrics"}, Verbs: []string{"get"}}},
		},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "metrics-reader"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "metrics-reader"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "bulkhead:metrics-server"}},
		},
	} {
		if err := t.Client.Create(ctx, object); err != nil {
			return err
		}
	}
	if err := makeNode(ctx, t.Client, nodeName, number); err != nil {
		return err
	}
	t.pod = pod("web", "front", nodeName)
	return t.Client.Create(ctx, t.pod)
}

// secret is the tenant's vn-agent-kubeconfig with this client CA.
func (t *tenantCluster) secret(ca *pki.CA) (*corev1.Secret, error) {
	pair, err := t.CA.Issue(pki.Leaf{CommonName: tenancy.UserVNAgent, Usage: pki.Client})
	if err != nil {
		return nil, err
	}
	data, err := kubeconfig.Encode(kubeconfig.Config{Name: t.Name, Server: t.Config.Host, CA: t.CA.Cert, User: tenancy.UserVNAgent, Client: pair})
	if err != nil {
		return nil, err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: t.ControlPlaneNamespace(), Name: tenancy.VNAgentKubeconfigSecret},
		Data:       map[string][]byte{tenancy.KubeconfigKey: data, tenancy.KubeletClientCAKey: ca.Cert},
	}
	tenancy.MarkTenant(secret, t.Tenant, tenancy.ManagedByManager)
	return secret, nil
}
