package controlplane

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
)

const (
	// EtcdData is the name of the etcd member's volume.
	EtcdData = "data"
	// EtcdClient is the Service that the apiserver finds etcd by.
	EtcdClient = "etcd-client"

	etcdClientPort = 2379
	etcdPeerPort   = 2380
	etcdDir        = "/var/lib/etcd"

	// etcdStateKey in ConfigMap etcd says whether etcd may begin with an empty volume.
	etcdStateKey = "initial-cluster-state"
	etcdNew      = "new"
	etcdExisting = "existing"

	// maxEtcdQuota is the largest database etcd's authors advise.
	maxEtcdQuota = 8 << 30
)

// EtcdStatefulSet is the tenant's etcd: one member that keeps its volume.
func EtcdStatefulSet(in Input) *appsv1.StatefulSet {
	container := corev1.Container{
		Image:   image(in.Class.Etcd.ComponentSpec, in.Platform.Images.Etcd),
		Command: append([]string{"etcd"}, etcdFlags(in)...),
		Env: []corev1.EnvVar{
			fieldEnv("POD_NAME", "metadata.name"),
			// Not a flag, so that the pod template stays the same and etcd is not
			// restarted when the state changes; the next start reads it.
			{Name: "ETCD_INITIAL_CLUSTER_STATE", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: Etcd}, Key: etcdStateKey,
			}}},
		},
		Ports: []corev1.ContainerPort{
			{Name: "client", ContainerPort: etcdClientPort, Protocol: corev1.ProtocolTCP},
			{Name: "peer", ContainerPort: etcdPeerPort, Protocol: corev1.ProtocolTCP},
		},
		Resources:    resources(in.Class.Etcd.ComponentSpec, "50m", "96Mi"),
		VolumeMounts: []corev1.VolumeMount{{Name: EtcdData, MountPath: etcdDir}},
	}
	// etcd answers nobody without a client certificate, and a kubelet has none, so
	// probes run a client in the container, which does a real read. That costs a
	// process, hence the long period; being alive is seen by the port.
	alive := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(etcdClientPort)}}
	probes(&container, etcdHealth(1), etcdHealth(4), alive, 30)
	container.StartupProbe.TimeoutSeconds = 3 // the process takes its time to start, too

	return &appsv1.StatefulSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"},
		ObjectMeta: in.meta(Etcd, Etcd),
		Spec: appsv1.StatefulSetSpec{
			Replicas:             ptr.To[int32](1),
			ServiceName:          Etcd,
			PodManagementPolicy:  appsv1.ParallelPodManagement,
			RevisionHistoryLimit: ptr.To[int32](2),
			Selector:             &metav1.LabelSelector{MatchLabels: selector(Etcd)},
			Template: in.podTemplate(Etcd, container,
				secretFile(certificates.EtcdCA, corev1.TLSCertKey, "etcd-ca.crt"),
				pair(certificates.EtcdServer, "server"),
				pair(certificates.EtcdPeer, "peer"),
			),
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{etcdVolume(in)},
		},
	}
}

func etcdHealth(seconds int) corev1.ProbeHandler {
	return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{
		"etcdctl", "endpoint", "health", "--endpoints=https://127.0.0.1:2379", fmt.Sprintf("--command-timeout=%ds", seconds),
		"--cacert=" + file("etcd-ca.crt"), "--cert=" + file("server.crt"), "--key=" + file("server.key"),
	}}}
}

func etcdFlags(in Input) []string {
	domain := fmt.Sprintf("%s.%s.svc", Etcd, in.Tenant.ControlPlaneNamespace())
	return []string{
		"--name=$(POD_NAME)",
		// A folder of its own: etcd insists on mode 0700, the volume's root has others.
		"--data-dir=" + etcdDir + "/data",
		fmt.Sprintf("--listen-client-urls=https://0.0.0.0:%d", etcdClientPort),
		fmt.Sprintf("--advertise-client-urls=https://$(POD_NAME).%s:%d", domain, etcdClientPort),
		fmt.Sprintf("--listen-peer-urls=https://0.0.0.0:%d", etcdPeerPort),
		fmt.Sprintf("--initial-advertise-peer-urls=https://$(POD_NAME).%s:%d", domain, etcdPeerPort),
		fmt.Sprintf("--initial-cluster=etcd-0=https://etcd-0.%s:%d", domain, etcdPeerPort),
		"--initial-cluster-token=" + string(in.Tenant.UID),

		"--client-cert-auth=true",
		"--trusted-ca-file=" + file("etcd-ca.crt"), "--cert-file=" + file("server.crt"), "--key-file=" + file("server.key"),
		"--peer-client-cert-auth=true", "--peer-cert-allowed-cn=" + certificates.EtcdPeerName,
		"--peer-trusted-ca-file=" + file("etcd-ca.crt"), "--peer-cert-file=" + file("peer.crt"), "--peer-key-file=" + file("peer.key"),
		"--tls-min-version=TLS1.2",

		// kube-apiserver compacts every five minutes; this is for when none runs.
		"--auto-compaction-mode=periodic", "--auto-compaction-retention=30m",
		fmt.Sprintf("--quota-backend-bytes=%d", EtcdQuota(in.Class.Etcd.Storage.Size)),
		"--log-level=info",
	}
}

// EtcdQuota is the size at which etcd's database takes no more writes: three
// quarters of its volume, which leaves room for the write-ahead log and snapshots,
// so that the quota, which can be recovered from, is reached before the disk is full.
func EtcdQuota(volume resource.Quantity) int64 {
	return min(volume.Value()/4*3, maxEtcdQuota)
}

func etcdVolume(in Input) corev1.PersistentVolumeClaim {
	storage := in.Class.Etcd.Storage
	meta := in.meta(EtcdData, Etcd)
	meta.Namespace = ""
	claim := corev1.PersistentVolumeClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: meta,
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			VolumeMode:  ptr.To(corev1.PersistentVolumeFilesystem),
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: storage.Size}},
		},
	}
	if storage.StorageClassName != "" {
		claim.Spec.StorageClassName = ptr.To(storage.StorageClassName)
	}
	return claim
}

// EtcdConfig tells etcd whether an empty volume is a new cluster. Once the tenant
// has had data it is not: were the volume lost, an etcd that begins afresh would
// look like a tenant who deleted everything, and the syncer would delete their
// workloads. So it refuses to start instead, until an operator restores it.
func EtcdConfig(in Input) *corev1.ConfigMap {
	state := etcdNew
	if in.Established {
		state = etcdExisting
	}
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: in.meta(Etcd, Etcd),
		Data:       map[string]string{etcdStateKey: state},
	}
}

// EtcdEstablished tells whether the ConfigMap that EtcdConfig made says that the
// tenant has had data.
func EtcdEstablished(config *corev1.ConfigMap) bool { return config.Data[etcdStateKey] == etcdExisting }

// EtcdService is what the apiserver connects to. It has an address, and that
// address leads to the pod, before etcd is ready: the apiserver starts at the same
// time and retries. With a headless Service its first look-up would fail, and DNS
// servers remember failures for up to 30 s.
func EtcdService(in Input) *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: in.meta(EtcdClient, Etcd),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: selector(Etcd), PublishNotReadyAddresses: true,
			Ports: []corev1.ServicePort{port("client", etcdClientPort)},
		},
	}
}

// EtcdPeerService gives members the names they know each other by.
func EtcdPeerService(in Input) *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: in.meta(Etcd, Etcd),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: corev1.ClusterIPNone,
			Selector: selector(Etcd), PublishNotReadyAddresses: true,
			Ports: []corev1.ServicePort{port("client", etcdClientPort), port("peer", etcdPeerPort)},
		},
	}
}

func port(name string, number int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Port: number, TargetPort: intstr.FromString(name), Protocol: corev1.ProtocolTCP}
}
