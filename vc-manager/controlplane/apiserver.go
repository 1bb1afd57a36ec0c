package controlplane

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
)

// Keys of the ConfigMap kube-apiserver.
const (
	authenticationKey = "authentication.yaml"
	nodeAgentCAKey    = "vn-agent-serving-ca.crt"
)

// authentication lets callers without credentials look at the apiserver's health,
// as kubelets do, and at nothing else. A tenant cannot widen it by RBAC.
const authentication = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`

// APIServerDeployment is the tenant's kube-apiserver. It is a Deployment, not a
// StatefulSet, since it keeps nothing: a replacement can serve before the old pod
// is gone, also when that one's node is lost.
func APIServerDeployment(in Input) *appsv1.Deployment {
	container := corev1.Container{
		Image:     image(in.Class.APIServer, in.Platform.Images.APIServer),
		Command:   append([]string{"kube-apiserver"}, apiServerFlags(in)...),
		Env:       []corev1.EnvVar{fieldEnv("POD_IP", "status.podIP")},
		Ports:     []corev1.ContainerPort{{Name: "https", ContainerPort: tenancy.APIServerPort, Protocol: corev1.ProtocolTCP}},
		Resources: resources(in.Class.APIServer, "100m", "320Mi"),
	}
	// etcd is left out of being alive: a restart of the apiserver does not help etcd,
	// and drops every watch of the tenant.
	probes(&container, https("/readyz", tenancy.APIServerPort), https("/readyz", tenancy.APIServerPort), https("/livez?exclude=etcd", tenancy.APIServerPort), 2)
	template := in.podTemplate(APIServer, container,
		secretFile(certificates.EtcdCA, corev1.TLSCertKey, "etcd-ca.crt"),
		pair(certificates.APIServerEtcdClient, "etcd-client"),
		secretFile(certificates.ClusterCA, corev1.TLSCertKey, "cluster-ca.crt"),
		pair(certificates.APIServerServing, "serving"),
		pair(certificates.APIServerKubeletClient, "kubelet-client"),
		secretFile(certificates.FrontProxyCA, corev1.TLSCertKey, "front-proxy-ca.crt"),
		pair(certificates.FrontProxyClient, "front-proxy-client"),
		secretFile(certificates.ServiceAccountKey, certificates.PublicKeyKey, "sa.pub", certificates.PrivateKeyKey, "sa.key"),
		corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: APIServer},
			Items:                []corev1.KeyToPath{{Key: authenticationKey, Path: authenticationKey}, {Key: nodeAgentCAKey, Path: nodeAgentCAKey}},
		}},
	)
	return in.deployment(APIServer, template)
}

// apiServerFlags differ from upstream's defaults where a comment says why.
func apiServerFlags(in Input) []string {
	issuer := "https://kubernetes.default.svc." + in.Spec.ClusterDomain
	return []string{
		// The tenant's Service "kubernetes" leads to this address, from their pods.
		"--advertise-address=$(POD_IP)",
		fmt.Sprintf("--secure-port=%d", tenancy.APIServerPort),
		"--tls-cert-file=" + file("serving.crt"), "--tls-private-key-file=" + file("serving.key"),
		"--tls-min-version=VersionTLS12", "--profiling=false",
		"--service-cluster-ip-range=" + in.Spec.ServiceCIDR,

		fmt.Sprintf("--etcd-servers=https://%s.%s.svc:%d", EtcdClient, in.Tenant.ControlPlaneNamespace(), etcdClientPort),
		"--etcd-cafile=" + file("etcd-ca.crt"), "--etcd-certfile=" + file("etcd-client.crt"), "--etcd-keyfile=" + file("etcd-client.key"),

		"--client-ca-file=" + file("cluster-ca.crt"),
		"--authentication-config=" + file(authenticationKey),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		// Whether a privileged pod may run is decided by the class, with an event that
		// says so, when the pod goes down; here it would be refused without a reason.
		"--allow-privileged=true",

		"--service-account-issuer=" + issuer, "--api-audiences=" + issuer,
		"--service-account-key-file=" + file("sa.pub"), "--service-account-signing-key-file=" + file("sa.key"),
		// Tokens outlive their renewal date, so that pods get through a time without
		// anybody who renews them.
		"--service-account-extend-token-expiration=true",

		"--requestheader-client-ca-file=" + file("front-proxy-ca.crt"),
		"--requestheader-allowed-names=" + certificates.FrontProxyName,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + file("front-proxy-client.crt"), "--proxy-client-key-file=" + file("front-proxy-client.key"),
		// Webhooks and aggregated API servers of the tenant are reached at their pods'
		// addresses: the tenant's ClusterIPs exist inside the tenant's sandboxes only.
		"--enable-aggregator-routing=true",

		// What the apiserver takes for a kubelet is vn-agent, on the node's address.
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-certificate-authority=" + file(nodeAgentCAKey),
		"--kubelet-client-certificate=" + file("kubelet-client.crt"), "--kubelet-client-key=" + file("kubelet-client.key"),

		// Lets kube-proxies notice that a pod ends before it stops answering.
		"--shutdown-delay-duration=2s",
	}
}

// APIServerConfig holds the files of kube-apiserver that are no secrets.
func APIServerConfig(in Input) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: in.meta(APIServer, APIServer),
		Data:       map[string]string{authenticationKey: authentication, nodeAgentCAKey: string(in.NodeAgentCA)},
	}
}

// APIServerService is how the tenant's apiserver is reached, from the platform's
// components, from the tenant's pods and, by its type, from outside.
func APIServerService(in Input) *corev1.Service {
	meta := in.meta(APIServer, APIServer)
	for key, value := range in.Class.Exposure.Annotations {
		// Marks are ours alone.
		if !tenancy.Reserved(key) {
			meta.Annotations[key] = value
		}
	}
	serviceType := corev1.ServiceType(in.Class.Exposure.Type)
	if serviceType == "" {
		serviceType = corev1.ServiceType(tenancyv1alpha1.ExposeLoadBalancer)
	}
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta,
		Spec: corev1.ServiceSpec{
			Type: serviceType, Selector: selector(APIServer),
			Ports: []corev1.ServicePort{port("https", tenancy.APIServerPort)},
		},
	}
}
