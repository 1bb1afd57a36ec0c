// Package controlplane says what the pods of a tenant's control plane look like.
// It is a pure function from one Input to the objects in the super cluster: nothing
// here reads a cluster, a clock or a random number, so that every object is tested
// against a golden file in testdata.
//
// One file is one component.
package controlplane

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
)

// Names of the components: of their workloads, and of the containers in them.
const (
	Etcd              = "etcd"
	APIServer         = tenancy.APIServerService
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	MetricsServer     = "metrics-server"
)

// Platform is what all control planes of an installation have in common.
type Platform struct {
	// Namespace is the super namespace of the platform's own components.
	Namespace string
	// The ServiceAccounts there that may read their own kubeconfig of each tenant.
	SyncerServiceAccount      string
	VNAgentServiceAccount     string
	TenantProxyServiceAccount string
	// ClusterDomain is the DNS domain of the super cluster's Services.
	ClusterDomain string
	// Images that run where the class names none.
	Images Images
	// Networks are those that tenants reach.
	Networks tenantnetwork.Networks
}

// Images are whole image names. Each must hold a program of its component's name in
// PATH, but CoreDNS: its image is run as upstream's is, by its entrypoint.
type Images struct {
	Etcd, APIServer, ControllerManager, Scheduler, MetricsServer, CoreDNS string
}

// Input is all that the objects of one control plane depend on.
type Input struct {
	Tenant   tenancy.Tenant
	Spec     tenancyv1alpha1.VirtualClusterSpec
	Class    tenancyv1alpha1.VirtualClusterClassSpec
	Platform Platform
	// NodeAgentCA is the PEM bundle that verifies what tenants take for kubelets.
	NodeAgentCA []byte
	// StartupFiles has, by component, a hash of the certificates that the component
	// reads only when it starts; a new hash replaces its pods.
	StartupFiles map[string]string
	// Established says that the tenant's etcd has held data before.
	Established bool
}

// Foundations are the objects that workloads refer to, without the namespace and
// the Secrets. They depend on nothing but each other's names, so they may be
// created in any order.
func Foundations(in Input) []client.Object {
	objects := []client.Object{
		APIServerService(in), EtcdService(in), EtcdPeerService(in),
		APIServerConfig(in), EtcdConfig(in),
		DisruptionBudget(in, Etcd), DisruptionBudget(in, APIServer), DisruptionBudget(in, ControllerManager),
	}
	objects = append(objects, ComponentAccess(in)...)
	objects = append(objects, NetworkPolicies(in)...)
	if MetricsServerWanted(in) {
		objects = append(objects, MetricsServerService(in))
	}
	if SchedulerWanted(in) {
		objects = append(objects, DisruptionBudget(in, Scheduler))
	}
	return objects
}

// Workloads are the control plane's pods, etcd first. They start at the same time: etcd is
// retried by the apiserver, the apiserver by controller-manager and scheduler. metrics-server gives
// up without an apiserver, so it comes when there is one.
func Workloads(in Input) []client.Object {
	objects := []client.Object{EtcdStatefulSet(in), APIServerDeployment(in), ControllerManagerDeployment(in)}
	if SchedulerWanted(in) {
		objects = append(objects, SchedulerDeployment(in))
	}
	if MetricsServerWanted(in) && in.Established {
		objects = append(objects, MetricsServerDeployment(in))
	}
	return objects
}

// InClusterURL is where the tenant's apiserver is found from inside the super cluster.
func InClusterURL(tenant tenancy.Tenant) string {
	return "https://" + APIServerHost(tenant) + ":6443"
}

// APIServerHost is the DNS name of the tenant's apiserver inside the super cluster.
func APIServerHost(tenant tenancy.Tenant) string {
	return tenancy.APIServerService + "." + tenant.ControlPlaneNamespace() + ".svc"
}

// meta is the identity and the marks of an object of the control plane.
func (in Input) meta(name, component string) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{
		Namespace: in.Tenant.ControlPlaneNamespace(), Name: name,
		Labels: labels(component),
	}
	tenancy.MarkTenant(&meta, in.Tenant, tenancy.ManagedByManager)
	return meta
}

// LabelComponent holds the component's name, on every object of a control plane.
const LabelComponent = "app.kubernetes.io/name"

func labels(component string) map[string]string {
	return map[string]string{LabelComponent: component, "app.kubernetes.io/part-of": "bulkhead"}
}

// selector finds the pods of a component inside its namespace.
func selector(component string) map[string]string {
	return map[string]string{LabelComponent: component}
}

// image is the class's choice or the installation's.
func image(spec tenancyv1alpha1.ComponentSpec, fallback string) string {
	if spec.Image != "" {
		return spec.Image
	}
	return fallback
}

// resources are the class's choice or the requests given, which are what an idle
// component was measured to need, with some room. There are no limits by default:
// an apiserver that is killed for memory takes a whole tenant down.
func resources(spec tenancyv1alpha1.ComponentSpec, cpu, memory string) corev1.ResourceRequirements {
	if spec.Resources != nil {
		return *spec.Resources
	}
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse(cpu),
		corev1.ResourceMemory: resource.MustParse(memory),
	}}
}
