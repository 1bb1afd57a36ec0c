package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
)

func TestExposureOf(t *testing.T) {
	service := func(nodePort int32, ingress ...corev1.LoadBalancerIngress) *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "kube-apiserver"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.0.0.5", ClusterIPs: []string{"10.0.0.5", "fd00::5"}, Ports: []corev1.ServicePort{{Port: 6443, NodePort: nodePort}}},
			Status:     corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: ingress}},
		}
	}
	node := func(name string, addresses ...string) corev1.Node {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, address := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
		}
		return n
	}
	nodes := []corev1.Node{node("b", "192.0.2.2"), node("a", "192.0.2.1"), node("0")}
	cluster, node6443 := tenancyv1alpha1.ExposeClusterIP, tenancyv1alpha1.ExposeNodePort
	balancer := tenancyv1alpha1.ExposeLoadBalancer
	for name, tc := range map[string]struct {
		service  *corev1.Service
		spec     tenancyv1alpha1.ExposureSpec
		nodes    []corev1.Node
		previous string
		want     exposure
	}{
		"ClusterIP":               {service(0), tenancyv1alpha1.ExposureSpec{Type: cluster}, nil, "", exposure{url: "https://10.0.0.5:6443", hosts: []string{"10.0.0.5", "fd00::5"}}},
		"ClusterIP not yet":       {&corev1.Service{}, tenancyv1alpha1.ExposureSpec{Type: cluster}, nil, "", exposure{waiting: "waiting for service / to get an address"}},
		"NodePort, first node":    {service(30001), tenancyv1alpha1.ExposureSpec{Type: node6443}, nodes, "", exposure{url: "https://192.0.2.1:30001", hosts: []string{"10.0.0.5", "fd00::5", "192.0.2.1"}}},
		"NodePort, kept":          {service(30001), tenancyv1alpha1.ExposureSpec{Type: node6443}, nodes, "192.0.2.2", exposure{url: "https://192.0.2.2:30001", hosts: []string{"10.0.0.5", "fd00::5", "192.0.2.2"}}},
		"NodePort, node is gone":  {service(30001), tenancyv1alpha1.ExposureSpec{Type: node6443}, nodes, "192.0.2.9", exposure{url: "https://192.0.2.1:30001", hosts: []string{"10.0.0.5", "fd00::5", "192.0.2.1"}}},
		"NodePort, host":          {service(30001), tenancyv1alpha1.ExposureSpec{Type: node6443, Host: "example.org"}, nil, "", exposure{url: "https://example.org:30001", hosts: []string{"10.0.0.5", "fd00::5", "example.org"}}},
		"NodePort, IPv6 host":     {service(30001), tenancyv1alpha1.ExposureSpec{Type: node6443, Host: "fd00::9"}, nil, "", exposure{url: "https://[fd00::9]:30001", hosts: []string{"10.0.0.5", "fd00::5", "fd00::9"}}},
		"NodePort, no node":       {service(30001), tenancyv1alpha1.ExposureSpec{Type: node6443}, nil, "", exposure{hosts: []string{"10.0.0.5", "fd00::5"}, waiting: "waiting for a node with an internal address, or for a host in the class's exposure"}},
		"NodePort, no port yet":   {service(0), tenancyv1alpha1.ExposureSpec{Type: node6443, Host: "h"}, nil, "", exposure{hosts: []string{"10.0.0.5", "fd00::5"}, waiting: "waiting for service ns/kube-apiserver to get a node port"}},
		"LoadBalancer not yet":    {service(30001), tenancyv1alpha1.ExposureSpec{Type: balancer}, nil, "", exposure{hosts: []string{"10.0.0.5", "fd00::5"}, waiting: "waiting for the load balancer of service ns/kube-apiserver to get an address"}},
		"LoadBalancer, address":   {service(30001, corev1.LoadBalancerIngress{IP: "203.0.113.9"}), tenancyv1alpha1.ExposureSpec{Type: balancer}, nil, "", exposure{url: "https://203.0.113.9:6443", hosts: []string{"10.0.0.5", "fd00::5", "203.0.113.9"}}},
		"LoadBalancer, host name": {service(30001, corev1.LoadBalancerIngress{Hostname: "lb.example.org"}), tenancyv1alpha1.ExposureSpec{Type: balancer}, nil, "", exposure{url: "https://lb.example.org:6443", hosts: []string{"10.0.0.5", "fd00::5", "lb.example.org"}}},
		"type not given":          {service(30001), tenancyv1alpha1.ExposureSpec{}, nil, "", exposure{hosts: []string{"10.0.0.5", "fd00::5"}, waiting: "waiting for the load balancer of service ns/kube-apiserver to get an address"}},
	} {
		got := exposureOf(tc.service, tc.spec, tc.nodes, tc.previous)
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(exposure{})); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

// Everything comes up while the load balancer is waited for; its address then goes
// into certificate and kubeconfig.
func TestLoadBalancer(t *testing.T) {
	t.Parallel()
	class := newClass(t, func(spec *tenancyv1alpha1.VirtualClusterClassSpec) {
		spec.Exposure = tenancyv1alpha1.ExposureSpec{Type: tenancyv1alpha1.ExposeLoadBalancer, Annotations: map[string]string{"cloud.example.org/internal": "true"}}
	})
	vc := newCluster(t, "balanced", class)
	waitPod(t, vc, "etcd-0")
	namespace := tenantOf(vc).ControlPlaneNamespace()
	service := &corev1.Service{}
	mustGet(t, client.ObjectKey{Namespace: namespace, Name: tenancy.APIServerService}, service)
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer || service.Annotations["cloud.example.org/internal"] != "true" {
		t.Errorf("service %s with %v", service.Spec.Type, service.Annotations)
	}
	if err := super.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: tenancy.AdminKubeconfigSecret}, &corev1.Secret{}); err == nil {
		t.Error("there is a kubeconfig though nobody knows the server")
	}
	testenv.ChangeStatus(t, super.Client, service, func() {
		service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	})
	eventually(t, func(ctx context.Context) error {
		admin := &corev1.Secret{}
		if err := super.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: tenancy.AdminKubeconfigSecret}, admin); err != nil {
			return err
		}
		config, err := kubeconfig.RESTConfig(admin.Data[tenancy.KubeconfigKey])
		if err != nil || config.Host != "https://203.0.113.9:6443" {
			return fmt.Errorf("kubeconfig for %v: %w", config, err)
		}
		cert, err := pki.ParseCertificate(getSecret(t, vc, certificates.APIServerServing).Data[corev1.TLSCertKey])
		if err != nil {
			return err
		}
		return cert.VerifyHostname("203.0.113.9")
	})
	deleteCluster(t, vc)
}

func TestExtraSANs(t *testing.T) {
	t.Parallel()
	vc := newCluster(t, "named", newClass(t, nil))
	waitCondition(t, vc, tenancyv1alpha1.ConditionCertificatesReady, metav1.ConditionTrue, reasonReady)
	// The tenant's owner may change these at any time.
	testenv.Change(t, super.Client, vc, func() { vc.Spec.ExtraSANs = []string{"api.example.org", "2001:db8::1"} })
	eventually(t, func(context.Context) error {
		cert, err := pki.ParseCertificate(getSecret(t, vc, certificates.APIServerServing).Data[corev1.TLSCertKey])
		if err != nil {
			return err
		}
		if err := cert.VerifyHostname("2001:db8::1"); err != nil {
			return err
		}
		return cert.VerifyHostname("api.example.org")
	})
	deleteCluster(t, vc)
}

// What keeps a pod from running stands in the condition, in the super cluster's words.
func TestWhyItIsNotReady(t *testing.T) {
	for name, tc := range map[string]struct {
		status corev1.PodStatus
		want   string
	}{
		"pull":      {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}}}}}, "ImagePullBackOff: no such image"},
		"creating":  {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}}, ""},
		"crash":     {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Error"}}}}}, "Error"},
		"no room":   {corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes"}}}, "Unschedulable: 0/2 nodes"},
		"all right": {corev1.PodStatus{}, ""},
	} {
		if got := podTrouble(&corev1.Pod{Status: tc.status}); !strings.Contains(got, tc.want) || (tc.want == "" && got != "") {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
