//go:build churn

package churn

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

const witnessed = witness + "/" + witness

// tokensOf finds the Secret with the tokens of the witness.
func tokensOf(super *state, down string) *corev1.Secret {
	for i := range super.Secrets.Items {
		if secret := &super.Secrets.Items[i]; secret.Namespace == down && strings.HasPrefix(secret.Name, "tokens-") {
			return secret
		}
	}
	return nil
}

// mutations are by name; down is the super namespace of the witness, node and volume are
// its pod's and its claim's.
func mutations(down, node, volume string) map[string]mutation {
	now := metav1.Now()
	return map[string]mutation{
		"nothing": {func(*state, *state) {}, nil},

		// Lost in the super cluster.
		"lost pod": {func(super, _ *state) { remove(&super.Pods.Items, down, witness) }, []string{
			"lost super pods " + witnessed, "orphaned super secrets " + witnessed, "orphaned tenant nodes " + node, "orphaned tenant leases kube-node-lease/" + node,
		}},
		"lost configmap":      {func(super, _ *state) { remove(&super.ConfigMaps.Items, down, witness) }, []string{"lost super configmaps " + witnessed}},
		"lost secret":         {func(super, _ *state) { remove(&super.Secrets.Items, down, witness) }, []string{"lost super secrets " + witnessed}},
		"lost tokens":         {func(super, _ *state) { remove(&super.Secrets.Items, down, tokensOf(super, down).Name) }, []string{"lost super secrets " + witnessed}},
		"lost serviceaccount": {func(super, _ *state) { remove(&super.ServiceAccounts.Items, down, witness) }, []string{"lost super serviceaccounts " + witnessed}},
		"lost service":        {func(super, _ *state) { remove(&super.Services.Items, down, witness) }, []string{"lost super services " + witnessed}},
		"lost endpoints":      {func(super, _ *state) { remove(&super.Endpoints.Items, down, witness) }, []string{"lost super endpoints " + witnessed}},
		"lost claim": {func(super, _ *state) { remove(&super.Claims.Items, down, witness) }, []string{
			"lost super persistentvolumeclaims " + witnessed,
		}},
		"lost policy":    {func(super, _ *state) { remove(&super.Policies.Items, down, witness) }, []string{"lost super networkpolicies " + witnessed}},
		"lost fence":     {func(super, _ *state) { remove(&super.Policies.Items, down, tenancy.FenceDeny) }, []string{"lost super networkpolicies witness/fence-deny"}},
		"lost namespace": {func(super, _ *state) { remove(&super.Namespaces.Items, "", down) }, []string{"lost super namespaces witness"}},

		// Lost in the tenant's cluster.
		"lost node": {func(_, tenant *state) { remove(&tenant.Nodes.Items, "", node) }, []string{
			"lost tenant nodes " + node, "orphaned tenant leases kube-node-lease/" + node,
		}},
		"lost lease":        {func(_, tenant *state) { remove(&tenant.Leases.Items, "kube-node-lease", node) }, []string{"lost tenant leases kube-node-lease/" + node}},
		"lost storageclass": {func(_, tenant *state) { remove(&tenant.StorageClasses.Items, "", offeredClass) }, []string{"lost tenant storageclasses " + offeredClass}},

		// Orphaned: the tenant's object is gone.
		"orphaned pod": {func(_, tenant *state) { remove(&tenant.Pods.Items, witness, witness) }, []string{
			"orphaned super configmaps " + witnessed, "orphaned super configmaps witness/kube-root-ca.crt", "orphaned super pods " + witnessed,
			"orphaned super secrets " + witnessed, "orphaned super secrets " + witnessed, "orphaned super serviceaccounts " + witnessed,
		}},
		"orphaned service": {func(_, tenant *state) { remove(&tenant.Services.Items, witness, witness) }, []string{"orphaned super endpoints " + witnessed, "orphaned super services " + witnessed}},
		"orphaned policy": {func(_, tenant *state) { remove(&tenant.Policies.Items, witness, witness) }, []string{
			"orphaned super networkpolicies " + witnessed, "wrong super pods " + witnessed + " metadata.labels[" + tenancy.LabelIngressIsolated + "]",
		}},
		"orphaned claim": {func(_, tenant *state) { remove(&tenant.Claims.Items, witness, witness) }, []string{"orphaned super persistentvolumeclaims " + witnessed}},
		"orphaned in a tenant's cluster": {func(_, tenant *state) { twin(&tenant.StorageClasses.Items, "", offeredClass, nil) }, []string{
			"orphaned tenant storageclasses twin",
		}},
		"orphaned by its tenant": {func(super, _ *state) {
			twin(&super.ConfigMaps.Items, down, witness, nil)
			super.ConfigMaps.Items[len(super.ConfigMaps.Items)-1].Labels[tenancy.LabelTenant] = "gone"
		}, []string{"orphaned super configmaps " + down + "/twin"}},
		"unmarked": {func(super, _ *state) {
			twin(&super.Secrets.Items, down, witness, nil)
			super.Secrets.Items[len(super.Secrets.Items)-1].Annotations = nil
		}, []string{"orphaned super secrets " + down + "/twin"}},
		"standing for nothing": {func(super, _ *state) { twin(&super.Services.Items, down, witness, anotherOrigin) }, []string{"orphaned super services witness/gone"}},

		// Duplicated.
		"duplicated pod":       {func(super, _ *state) { twin(&super.Pods.Items, down, witness, nil) }, []string{"duplicated super pods " + witnessed, "lost super secrets " + witnessed}},
		"duplicated configmap": {func(super, _ *state) { twin(&super.ConfigMaps.Items, down, witness, nil) }, []string{"duplicated super configmaps " + witnessed}},

		// Wrong.
		"another's pod": {func(super, _ *state) {
			in(super.Pods.Items, down, witness).Annotations[tenancy.AnnotationUID] = "earlier"
		}, []string{
			"orphaned super secrets " + witnessed, "wrong super pods " + witnessed + " metadata.uid",
		}},
		"configmap data": {func(super, _ *state) { in(super.ConfigMaps.Items, down, witness).Data["a"] = "2" }, []string{"wrong super configmaps " + witnessed + " data"}},
		"secret data":    {func(super, _ *state) { in(super.Secrets.Items, down, witness).Data["a"] = nil }, []string{"wrong super secrets " + witnessed + " data"}},
		"token":          {func(super, _ *state) { tokensOf(super, down).Data["more"] = []byte("x") }, []string{"wrong super secrets " + witnessed + " data[more]"}},
		"labels": {func(super, _ *state) {
			object := in(super.Pods.Items, down, witness)
			delete(object.Labels, "app")
			object.Labels[churnPrefix+"size"] = "a"
		}, []string{"wrong super pods " + witnessed + " metadata.labels[app] metadata.labels[" + churnPrefix + "size]"}},
		"image": {func(super, _ *state) { in(super.Pods.Items, down, witness).Spec.Containers[0].Image = "x" }, []string{"wrong super pods " + witnessed + " spec.containers[main].image"}},
		"account": {func(super, _ *state) { in(super.Pods.Items, down, witness).Spec.ServiceAccountName = "default" }, []string{
			"wrong super pods " + witnessed + " spec.serviceAccountName",
		}},
		"phase not up":    {func(_, tenant *state) { in(tenant.Pods.Items, witness, witness).Status.Phase = corev1.PodPending }, []string{"wrong super pods " + witnessed + " status.phase"}},
		"address not up":  {func(_, tenant *state) { in(tenant.Pods.Items, witness, witness).Status.PodIPs = nil }, []string{"wrong super pods " + witnessed + " status.podIPs"}},
		"not bound":       {func(_, tenant *state) { in(tenant.Pods.Items, witness, witness).Spec.NodeName = "" }, []string{"wrong super pods " + witnessed + " spec.nodeName"}},
		"being deleted":   {func(super, _ *state) { in(super.Services.Items, down, witness).DeletionTimestamp = &now }, []string{"wrong super services " + witnessed + " metadata.deletionTimestamp"}},
		"stuck":           {func(_, tenant *state) { in(tenant.Pods.Items, witness, witness).DeletionTimestamp = &now }, []string{"wrong tenant pods " + witnessed + " metadata.deletionTimestamp"}},
		"ports":           {func(super, _ *state) { in(super.Services.Items, down, witness).Spec.Ports[0].Port = 81 }, []string{"wrong super services " + witnessed + " spec.ports"}},
		"balancer not up": {func(_, tenant *state) { in(tenant.Services.Items, witness, witness).Status = corev1.ServiceStatus{} }, []string{"wrong super services " + witnessed + " status.loadBalancer"}},
		"subsets":         {func(super, _ *state) { in(super.Endpoints.Items, down, witness).Subsets = nil }, []string{"wrong super endpoints " + witnessed + " subsets"}},
		"claim not grown": {func(_, tenant *state) {
			in(tenant.Claims.Items, witness, witness).Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Gi")
		}, []string{"wrong super persistentvolumeclaims " + witnessed + " spec.resources.requests"}},
		"fence opened": {func(super, _ *state) {
			in(super.Policies.Items, down, tenancy.FenceIngress).Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
		}, []string{"wrong super networkpolicies witness/fence-ingress spec.ingress"}},
		"pod security": {func(super, _ *state) {
			delete(in(super.Namespaces.Items, "", down).Labels, "pod-security.kubernetes.io/enforce")
		}, []string{
			"wrong super namespaces witness metadata.labels[pod-security.kubernetes.io/enforce]",
		}},
		"namespace label": {func(_, tenant *state) { in(tenant.Namespaces.Items, "", witness).Labels[churnPrefix+"color"] = "b" }, []string{
			"wrong super namespaces witness metadata.labels[" + hashedKey(churnPrefix+"color") + "]",
		}},
		"cordon not up": {func(_, tenant *state) { in(tenant.Nodes.Items, "", node).Spec.Unschedulable = true }, []string{
			"wrong tenant nodes " + node + " spec.unschedulable",
		}},
		"node shows too much": {func(_, tenant *state) { in(tenant.Nodes.Items, "", node).Labels["platform.example/rack"] = "r1" }, []string{
			"wrong tenant nodes " + node + " metadata.labels[platform.example/rack]",
		}},
		"volume of another claim": {func(_, tenant *state) { in(tenant.Volumes.Items, "", volume).Spec.ClaimRef.UID = "x" }, []string{
			"wrong tenant persistentvolumes " + volume + " spec.claimRef",
		}},
	}
}
