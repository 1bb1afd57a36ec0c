package controlplane

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

const (
	// runAs is the user and group of all control-plane processes: any but root will
	// do, none of the images needs an entry for it.
	runAs = 65532

	// AnnotationStartupFiles on pods changes with what they read only at start.
	AnnotationStartupFiles = tenancy.Domain + "/startup-files"

	// credentials is where a pod finds its certificates, keys and configuration.
	credentials       = "/etc/kubernetes/control-plane"
	credentialsVolume = "control-plane"
)

// podTemplate is what the pods of all components have in common.
func (in Input) podTemplate(component string, container corev1.Container, files ...corev1.VolumeProjection) corev1.PodTemplateSpec {
	meta := metav1.ObjectMeta{Labels: labels(component)}
	tenancy.MarkTenant(&meta, in.Tenant, tenancy.ManagedByManager)
	if hash := in.StartupFiles[component]; hash != "" {
		meta.Annotations[AnnotationStartupFiles] = hash
	}
	container.Name = component
	container.ImagePullPolicy = corev1.PullIfNotPresent
	container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: credentialsVolume, MountPath: credentials, ReadOnly: true})
	container.SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr.To(false),
		ReadOnlyRootFilesystem:   ptr.To(true),
		Capabilities:             capabilities(component),
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: meta,
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: ptr.To(false),
			EnableServiceLinks:           ptr.To(false),
			NodeSelector:                 map[string]string{corev1.LabelOSStable: "linux"},
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot:        ptr.To(true),
				RunAsUser:           ptr.To[int64](runAs),
				RunAsGroup:          ptr.To[int64](runAs),
				FSGroup:             ptr.To[int64](runAs),
				FSGroupChangePolicy: ptr.To(corev1.FSGroupChangeOnRootMismatch),
				SeccompProfile:      &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{container},
			// One projected volume instead of one volume per Secret: the kubelet
			// mounts it once, and all files of it change together.
			Volumes: []corev1.Volume{{
				Name: credentialsVolume,
				VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
					Sources: files, DefaultMode: ptr.To[int32](0o440),
				}},
			}},
		},
	}
}

// capabilities are none. The file of upstream's kube-apiserver image carries
// cap_net_bind_service, and the kernel refuses to run a file with a capability
// that the container may not have, though it binds no port below 1024.
func capabilities(component string) *corev1.Capabilities {
	none := &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	if component == APIServer {
		none.Add = []corev1.Capability{"NET_BIND_SERVICE"}
	}
	return none
}

// deployment runs one replica of a component that keeps no state. A new pod is
// ready before the old one ends.
func (in Input) deployment(component string, template corev1.PodTemplateSpec) *appsv1.Deployment {
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: in.meta(component, component),
		Spec: appsv1.DeploymentSpec{
			Replicas:             ptr.To[int32](1),
			RevisionHistoryLimit: ptr.To[int32](2),
			Selector:             &metav1.LabelSelector{MatchLabels: selector(component)},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge:       ptr.To(intstr.FromInt32(1)),
					MaxUnavailable: ptr.To(intstr.FromInt32(0)),
				},
			},
			Template: template,
		},
	}
}

// DisruptionBudget lets a drain take one pod of a component at a time. With one
// replica that means it may take it: a budget that forbade it would block the
// maintenance of nodes for ever.
func DisruptionBudget(in Input, component string) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: in.meta(component, component),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable:             ptr.To(intstr.FromInt32(1)),
			UnhealthyPodEvictionPolicy: ptr.To(policyv1.AlwaysAllow),
			Selector:                   &metav1.LabelSelector{MatchLabels: selector(component)},
		},
	}
}

// probes sets all three kinds of probe. While a component starts, a look per second
// costs little and saves the tenant time; it is given up after that second, because
// a server that has opened its port but does not answer yet would hold up the next
// look. Afterwards failing twice in a row takes a pod out of its Service, and six
// times restarts it.
func probes(container *corev1.Container, start, ready, alive corev1.ProbeHandler, readyEvery int32) {
	container.StartupProbe = &corev1.Probe{ProbeHandler: start, PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 180}
	container.ReadinessProbe = &corev1.Probe{ProbeHandler: ready, PeriodSeconds: readyEvery, TimeoutSeconds: 5, FailureThreshold: 2}
	container.LivenessProbe = &corev1.Probe{ProbeHandler: alive, PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 6}
}

// https is a probe of a path. The kubelet does not verify the certificate and shows none.
func https(path string, port int32) corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
		Path: path, Port: intstr.FromInt32(port), Scheme: corev1.URISchemeHTTPS,
	}}
}

// secretFile puts keys of a Secret into the credentials folder under other names:
// pairs of key and path.
func secretFile(secret string, keysAndPaths ...string) corev1.VolumeProjection {
	projection := &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}
	for i := 0; i+1 < len(keysAndPaths); i += 2 {
		projection.Items = append(projection.Items, corev1.KeyToPath{Key: keysAndPaths[i], Path: keysAndPaths[i+1]})
	}
	return corev1.VolumeProjection{Secret: projection}
}

// pair puts a certificate and its key into the credentials folder as name.crt and name.key.
func pair(secret, name string) corev1.VolumeProjection {
	return secretFile(secret, corev1.TLSCertKey, name+".crt", corev1.TLSPrivateKeyKey, name+".key")
}

func file(name string) string { return credentials + "/" + name }

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
}
