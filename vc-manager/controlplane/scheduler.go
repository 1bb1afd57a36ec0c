package controlplane

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
)

const schedulerPort = 10259

// SchedulerWanted tells whether the tenant places its pods itself.
func SchedulerWanted(in Input) bool { return in.Class.Scheduling == tenancyv1alpha1.ScheduledByTenant }

// SchedulerDeployment is the tenant's kube-scheduler. It knows the nodes that the
// class offers and the tenant's pods, none of others.
func SchedulerDeployment(in Input) *appsv1.Deployment {
	container := corev1.Container{
		Image:     image(in.Class.Scheduler, in.Platform.Images.Scheduler),
		Command:   append([]string{"kube-scheduler"}, schedulerFlags()...),
		Ports:     []corev1.ContainerPort{{Name: "https", ContainerPort: schedulerPort, Protocol: corev1.ProtocolTCP}},
		Resources: resources(in.Class.Scheduler, "20m", "64Mi"),
	}
	probes(&container, https("/livez", schedulerPort), https("/readyz", schedulerPort), https("/livez", schedulerPort), 10)
	template := in.podTemplate(Scheduler, container,
		secretFile(certificates.ClusterCA, corev1.TLSCertKey, "cluster-ca.crt"),
		pair(certificates.SchedulerServing, "serving"),
		secretFile(certificates.SchedulerKubeconfig, tenancy.KubeconfigKey, "kubeconfig"),
	)
	return in.deployment(Scheduler, template)
}

func schedulerFlags() []string {
	return []string{
		"--kubeconfig=" + file("kubeconfig"),
		// As of kube-controller-manager: only one may work, and it starts beside the
		// apiserver.
		"--leader-elect=true", "--leader-elect-retry-period=1s",
		fmt.Sprintf("--secure-port=%d", schedulerPort),
		"--tls-cert-file=" + file("serving.crt"), "--tls-private-key-file=" + file("serving.key"),
		"--tls-min-version=VersionTLS12", "--profiling=false",
		"--client-ca-file=" + file("cluster-ca.crt"),
		"--authentication-kubeconfig=" + file("kubeconfig"), "--authorization-kubeconfig=" + file("kubeconfig"),
		"--authentication-skip-lookup=true",
	}
}
