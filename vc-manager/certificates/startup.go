package certificates

import (
	"crypto/sha256"
	"encoding/hex"

	corev1 "k8s.io/api/core/v1"
)

// StartupFiles returns, by component, a hash of the files that the component reads
// only when it starts, so that its pods are replaced when one of them changes. All
// others are read again while it runs:
//
//   - kube-apiserver reloads its serving, etcd client, kubelet client and front proxy
//     client certificates and its client CAs; not what verifies etcd, nor the service
//     account key. What verifies vn-agent it reloads since 1.36.
//   - etcd reads its server and peer certificates at each handshake; not its CA.
//   - kube-controller-manager reloads its serving certificate; not its kubeconfig, its
//     signing key or the service account key.
//   - kube-scheduler reloads its serving certificate and what verifies its callers; not
//     its kubeconfig.
//   - metrics-server reloads its serving and kubelet client certificates; not its
//     kubeconfig or what verifies vn-agent.
//
// A file that changes reaches a running pod within a minute or two, whenever its
// kubelet looks again. That is too long where a tenant waits for the apiserver to
// answer at a new endpoint, the host of the apiserver's URL from outside, so that
// replaces the pod too; it is ready in seconds.
//
// Only public parts go into a hash: it stands in an annotation.
func StartupFiles(have Secrets, nodeAgentCA []byte, endpoint string) map[string]string {
	cert := func(secret string) []byte { return have.get(secret, corev1.TLSCertKey) }
	return map[string]string{
		"etcd":           hash(cert(EtcdCA)),
		"kube-apiserver": hash(cert(EtcdCA), have.get(ServiceAccountKey, PublicKeyKey), nodeAgentCA, []byte(endpoint)),
		"kube-controller-manager": hash(
			have.kubeconfigCert(ControllerManagerKubeconfig), cert(ClusterCA), have.get(ServiceAccountKey, PublicKeyKey)),
		"kube-scheduler": hash(have.kubeconfigCert(SchedulerKubeconfig)),
		"metrics-server": hash(have.kubeconfigCert(MetricsServerKubeconfig), nodeAgentCA),
	}
}

func (s Secrets) get(secret, key string) []byte {
	if s[secret] == nil {
		return nil
	}
	return s[secret].Data[key]
}

func (s Secrets) kubeconfigCert(secret string) []byte {
	if s[secret] == nil {
		return nil
	}
	return certificate{kubeconfig: true}.storedPair(s[secret].Data).Cert
}

func hash(parts ...[]byte) string {
	h := sha256.New()
	for _, part := range parts {
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
