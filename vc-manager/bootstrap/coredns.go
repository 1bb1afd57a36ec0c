package bootstrap

import (
	"net/netip"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// DNS is what CoreDNS in a tenant's cluster depends on.
type DNS struct {
	// Address of the Service, which the tenant's pods are told as their name server.
	Address netip.Addr
	// Domain of the tenant's Services.
	Domain string
	// Image is the whole name of CoreDNS' image.
	Image string
}

// Names as kubeadm has them: programs and people look for these.
const (
	coreDNSName    = "coredns"
	dnsServiceName = "kube-dns"
)

// corefile is kubeadm's. "loop" ends CoreDNS where the node's resolv.conf would make
// it ask itself; "reload" takes in what the tenant changes.
const corefile = `.:53 {
    errors
    health {
        lameduck 5s
    }
    ready
    kubernetes DOMAIN in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
        max_concurrent 1000
    }
    cache 30 {
        disable success DOMAIN
        disable denial DOMAIN
    }
    loop
    reload
    loadbalance
}
`

// coreDNS makes names of the tenant's Services resolve (D7). It is an ordinary
// workload of the tenant: the syncer carries it down, and the tenant sees it. It
// asks for nothing that the syncer keeps back (priority, tolerations of the nodes'
// taints) and meets the Pod Security Standard "restricted", so that it runs in every
// class without an event against it.
func coreDNS(in DNS) []client.Object {
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: coreDNSName}
	return []client.Object{
		&corev1.ServiceAccount{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
			ObjectMeta: dnsMeta(coreDNSName),
		},
		clusterRole("system:coredns",
			rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"endpoints", "services", "pods", "namespaces"}, Verbs: []string{"list", "watch"}},
			rbacv1.PolicyRule{APIGroups: []string{discoveryv1.GroupName}, Resources: []string{"endpointslices"}, Verbs: []string{"list", "watch"}},
		),
		clusterRoleBinding("system:coredns", "system:coredns", subject),
		&corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: dnsMeta(coreDNSName),
			Data:       map[string]string{"Corefile": strings.ReplaceAll(corefile, "DOMAIN", in.Domain)},
		},
		dnsService(in),
		dnsDeployment(in),
	}
}

func dnsMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name, Labels: dnsLabels()}
}

// dnsLabels are those by which DNS is known in any cluster, for its pods too.
func dnsLabels() map[string]string { return map[string]string{"k8s-app": dnsServiceName} }

func dnsService(in DNS) *corev1.Service {
	meta := dnsMeta(dnsServiceName)
	meta.Labels["kubernetes.io/cluster-service"] = "true"
	meta.Labels["kubernetes.io/name"] = "CoreDNS"
	meta.Annotations = map[string]string{"prometheus.io/port": "9153", "prometheus.io/scrape": "true"}
	address := in.Address.String()
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta,
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: address, ClusterIPs: []string{address},
			Selector: dnsLabels(),
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromString("dns")},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("dns-tcp")},
				{Name: "metrics", Port: 9153, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("metrics")},
			},
		},
	}
}

func dnsDeployment(in DNS) *appsv1.Deployment {
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment"},
		ObjectMeta: dnsMeta(coreDNSName),
		Spec: appsv1.DeploymentSpec{
			// Two, on different nodes where there are two: every name that the tenant's
			// pods look up goes through here.
			Replicas: ptr.To[int32](2),
			Selector: &metav1.LabelSelector{MatchLabels: dnsLabels()},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr.To(intstr.FromInt32(1))},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: dnsLabels()},
				Spec:       dnsPod(in),
			},
		},
	}
}

func dnsPod(in DNS) corev1.PodSpec {
	return corev1.PodSpec{
		ServiceAccountName: coreDNSName,
		// The node's own resolver: asking the cluster's would be asking itself.
		DNSPolicy:    corev1.DNSDefault,
		NodeSelector: map[string]string{corev1.LabelOSStable: "linux"},
		Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
				Weight: 100,
				PodAffinityTerm: corev1.PodAffinityTerm{
					TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: dnsLabels()},
				},
			}},
		}},
		// The user of upstream's image, which names it in words that a kubelet cannot
		// tell from root.
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](65532), RunAsGroup: ptr.To[int64](65532),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: coreDNSName, Image: in.Image, ImagePullPolicy: corev1.PullIfNotPresent,
			Args: []string{"-conf", "/etc/coredns/Corefile"},
			Ports: []corev1.ContainerPort{
				{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP},
				{Name: "dns-tcp", ContainerPort: 53, Protocol: corev1.ProtocolTCP},
				{Name: "metrics", ContainerPort: 9153, Protocol: corev1.ProtocolTCP},
				{Name: "liveness", ContainerPort: 8080, Protocol: corev1.ProtocolTCP},
				{Name: "readiness", ContainerPort: 8181, Protocol: corev1.ProtocolTCP},
			},
			LivenessProbe: &corev1.Probe{
				ProbeHandler:        corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/health", Port: intstr.FromString("liveness"), Scheme: corev1.URISchemeHTTP}},
				InitialDelaySeconds: 60, TimeoutSeconds: 5, FailureThreshold: 5,
			},
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromString("readiness"), Scheme: corev1.URISchemeHTTP}},
				PeriodSeconds: 2, TimeoutSeconds: 2,
			},
			// Less than upstream's request: a tenant's cluster is smaller than the whole
			// machines of one, and every tenant has two of these.
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("40Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("170Mi")},
			},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
				Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_BIND_SERVICE"}, Drop: []corev1.Capability{"ALL"}},
			},
			VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/coredns", ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: coreDNSName},
			Items:                []corev1.KeyToPath{{Key: "Corefile", Path: "Corefile"}},
		}}}},
	}
}
