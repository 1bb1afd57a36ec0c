package controlplane

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
)

// MetricsServerPort is the port of metrics-server's pods and Service.
const MetricsServerPort = 10250

// MetricsServerWanted tells whether this control plane has one.
func MetricsServerWanted(in Input) bool { return !in.Class.MetricsServer.Disabled }

// MetricsServerDeployment is the tenant's metrics-server. It runs beside the
// apiserver, not in the tenant's cluster, because it holds a certificate that
// opens vn-agent.
func MetricsServerDeployment(in Input) *appsv1.Deployment {
	container := corev1.Container{
		Image: image(in.Class.MetricsServer.ComponentSpec, in.Platform.Images.MetricsServer),
		// Upstream's image has the program outside of PATH, as its entrypoint.
		Args:      metricsServerFlags(),
		Ports:     []corev1.ContainerPort{{Name: "https", ContainerPort: MetricsServerPort, Protocol: corev1.ProtocolTCP}},
		Resources: resources(in.Class.MetricsServer.ComponentSpec, "20m", "64Mi"),
	}
	probes(&container, https("/livez", MetricsServerPort), https("/readyz", MetricsServerPort), https("/livez", MetricsServerPort), 10)
	template := in.podTemplate(MetricsServer, container,
		secretFile(certificates.MetricsServerKubeconfig, tenancy.KubeconfigKey, "kubeconfig"),
		pair(certificates.MetricsServerServing, "serving"),
		pair(certificates.MetricsServerKubeletClient, "kubelet-client"),
		corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: APIServer},
			Items:                []corev1.KeyToPath{{Key: nodeAgentCAKey, Path: nodeAgentCAKey}},
		}},
	)
	return in.deployment(MetricsServer, template)
}

func metricsServerFlags() []string {
	return []string{
		"--kubeconfig=" + file("kubeconfig"),
		"--authentication-kubeconfig=" + file("kubeconfig"), "--authorization-kubeconfig=" + file("kubeconfig"),
		fmt.Sprintf("--secure-port=%d", MetricsServerPort),
		"--tls-cert-file=" + file("serving.crt"), "--tls-private-key-file=" + file("serving.key"),
		"--tls-min-version=VersionTLS12",
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-use-node-status-port",
		"--kubelet-certificate-authority=" + file(nodeAgentCAKey),
		"--kubelet-client-certificate=" + file("kubelet-client.crt"), "--kubelet-client-key=" + file("kubelet-client.key"),
		"--metric-resolution=15s",
	}
}

// MetricsServerService is where the tenant's apiserver finds metrics-server.
func MetricsServerService(in Input) *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: in.meta(MetricsServer, MetricsServer),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: selector(MetricsServer),
			Ports: []corev1.ServicePort{port("https", MetricsServerPort)},
		},
	}
}
