package controlplane

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
)

const controllerManagerPort = 10257

// controllers are all of upstream's but those whose work is done elsewhere.
const controllers = "*" +
	// Nodes are the super cluster's: it gives them addresses and routes, attaches
	// their volumes and knows their cloud, and it watches their health. A vNode's
	// conditions come from the syncer, which renews leases too seldom for a tenant's
	// own node-lifecycle-controller: it would find every node dead and evict its pods.
	// taint-eviction-controller stays: it acts on taints, which tenants may set.
	",-node-ipam-controller,-node-route-controller,-node-lifecycle-controller" +
	",-cloud-node-lifecycle-controller,-persistentvolume-attach-detach-controller" +
	// Writes hints for kubelets into Nodes; no kubelet reads them here.
	",-ttl-controller" +
	// LoadBalancers are made by the super cluster.
	",-service-lb-controller"

// ControllerManagerDeployment is the tenant's kube-controller-manager.
func ControllerManagerDeployment(in Input) *appsv1.Deployment {
	container := corev1.Container{
		Image:     image(in.Class.ControllerManager, in.Platform.Images.ControllerManager),
		Command:   append([]string{"kube-controller-manager"}, controllerManagerFlags()...),
		Ports:     []corev1.ContainerPort{{Name: "https", ContainerPort: controllerManagerPort, Protocol: corev1.ProtocolTCP}},
		Resources: resources(in.Class.ControllerManager, "25m", "96Mi"),
	}
	probes(&container, https("/healthz", controllerManagerPort), https("/healthz", controllerManagerPort), https("/healthz", controllerManagerPort), 10)
	template := in.podTemplate(ControllerManager, container,
		// The key too: controller-manager signs the tenant's CertificateSigningRequests.
		pair(certificates.ClusterCA, "cluster-ca"),
		secretFile(certificates.ServiceAccountKey, certificates.PrivateKeyKey, "sa.key"),
		pair(certificates.ControllerManagerServing, "serving"),
		secretFile(certificates.ControllerManagerKubeconfig, tenancy.KubeconfigKey, "kubeconfig"),
	)
	return in.deployment(ControllerManager, template)
}

func controllerManagerFlags() []string {
	return []string{
		"--kubeconfig=" + file("kubeconfig"),
		"--controllers=" + controllers,
		"--use-service-account-credentials=true",
		"--root-ca-file=" + file("cluster-ca.crt"),
		"--service-account-private-key-file=" + file("sa.key"),
		"--cluster-signing-cert-file=" + file("cluster-ca.crt"), "--cluster-signing-key-file=" + file("cluster-ca.key"),
		// While a node that is out of reach still runs the old pod, only one may work.
		// The lease is asked for every second so that it is had soon after the
		// apiserver, which starts at the same time, first answers.
		"--leader-elect=true", "--leader-elect-retry-period=1s",
		// Each of the controllers asks for a ServiceAccount and a token of its own when
		// it is set up, more than a hundred requests in all: at the default of 20 per
		// second the tenant would wait five seconds for nothing.
		"--kube-api-qps=200", "--kube-api-burst=400",

		fmt.Sprintf("--secure-port=%d", controllerManagerPort),
		"--tls-cert-file=" + file("serving.crt"), "--tls-private-key-file=" + file("serving.key"),
		"--tls-min-version=VersionTLS12", "--profiling=false",
		// Callers are known by the cluster CA and asked for in the tenant's apiserver;
		// /healthz is open. Nothing is looked up at start, when there is no apiserver yet.
		"--client-ca-file=" + file("cluster-ca.crt"),
		"--authentication-kubeconfig=" + file("kubeconfig"), "--authorization-kubeconfig=" + file("kubeconfig"),
		"--authentication-skip-lookup=true",
	}
}
