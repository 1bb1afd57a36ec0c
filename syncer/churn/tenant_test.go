//go:build churn

package churn

import (
	"context"
	"fmt"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// user is somebody with all rights in a tenant's cluster. Names come from small sets, so
// that what is deleted soon has a successor of the same name.
type user struct{ client client.Client }

func (u user) namespace(r *rand.Rand) string { return one(r, "default", "blue", "blue", "green") }

func (u user) at(r *rand.Rand, prefix string, n int) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: u.namespace(r), Name: fmt.Sprintf("%s-%d", prefix, r.IntN(n)), Labels: someLabels(r)}
}

// someLabels are some of few, so that they come, change and go.
func someLabels(r *rand.Rand) map[string]string {
	labels := map[string]string{"app": one(r, "web", "db", "queue")}
	for _, key := range []string{"color", "size", "stage"} {
		if chance(r, 40) {
			labels[churnPrefix+key] = one(r, "a", "b", "c")
		}
	}
	return labels
}

// create makes an object, and its namespace where that is missing.
func (u user) create(ctx context.Context, object client.Object) error {
	err := u.client.Create(ctx, object)
	if apierrors.IsNotFound(err) {
		if err := u.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: object.GetNamespace()}}); err != nil {
			return err
		}
		err = u.client.Create(ctx, object)
	}
	return err
}

func (u user) relabel(ctx context.Context, r *rand.Rand, object client.Object) error {
	return change(ctx, u.client, object, func(object client.Object) { object.SetLabels(someLabels(r)) })
}

// operations are all that a tenant does.
func (u user) operations() []operation {
	all := append(u.podOperations(), u.tampering()...)
	return append(all,
		operation{"namespace create", 3, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: one(r, "blue", "green"), Labels: someLabels(r)}})
		}},
		operation{"namespace relabel", 2, func(ctx context.Context, r *rand.Rand) error {
			return u.relabel(ctx, r, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: u.namespace(r)}})
		}},
		operation{"namespace delete", 1, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: one(r, "blue", "green")}})
		}},
		operation{"configmap create", 10, func(ctx context.Context, r *rand.Rand) error {
			object := &corev1.ConfigMap{ObjectMeta: u.at(r, "config", 3), Data: someData(r)}
			if chance(r, 20) {
				object.Immutable = new(bool)
				*object.Immutable = chance(r, 80)
			}
			return u.create(ctx, object)
		}},
		operation{"configmap change", 10, func(ctx context.Context, r *rand.Rand) error {
			return change(ctx, u.client, &corev1.ConfigMap{ObjectMeta: u.at(r, "config", 3)}, func(object *corev1.ConfigMap) {
				object.Data, object.Labels = someData(r), someLabels(r)
			})
		}},
		operation{"configmap delete", 5, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, &corev1.ConfigMap{ObjectMeta: u.at(r, "config", 3)})
		}},
		operation{"secret create", 8, func(ctx context.Context, r *rand.Rand) error {
			object := &corev1.Secret{ObjectMeta: u.at(r, "secret", 3), StringData: someData(r)}
			if chance(r, 30) {
				object.Type = "churn.example/other"
			}
			return u.create(ctx, object)
		}},
		operation{"secret change", 8, func(ctx context.Context, r *rand.Rand) error {
			return change(ctx, u.client, &corev1.Secret{ObjectMeta: u.at(r, "secret", 3)}, func(object *corev1.Secret) {
				object.StringData, object.Labels = someData(r), someLabels(r)
			})
		}},
		operation{"secret delete", 5, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, &corev1.Secret{ObjectMeta: u.at(r, "secret", 3)})
		}},
		operation{"serviceaccount create", 5, func(ctx context.Context, r *rand.Rand) error {
			return u.create(ctx, &corev1.ServiceAccount{ObjectMeta: u.at(r, "account", 2)})
		}},
		operation{"serviceaccount change", 3, func(ctx context.Context, r *rand.Rand) error {
			return change(ctx, u.client, &corev1.ServiceAccount{ObjectMeta: u.at(r, "account", 2)}, func(object *corev1.ServiceAccount) {
				object.ImagePullSecrets = []corev1.LocalObjectReference{{Name: fmt.Sprintf("secret-%d", r.IntN(3))}}
			})
		}},
		operation{"serviceaccount delete", 2, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace(r), Name: one(r, "account-0", "account-1", "default")}})
		}},
		operation{"service create", 8, func(ctx context.Context, r *rand.Rand) error {
			service := &corev1.Service{ObjectMeta: u.at(r, "service", 3), Spec: someService(r)}
			return u.create(ctx, service)
		}},
		operation{"service change", 10, func(ctx context.Context, r *rand.Rand) error {
			return u.changeService(ctx, r)
		}},
		operation{"service delete", 5, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, &corev1.Service{ObjectMeta: u.at(r, "service", 3)})
		}},
		operation{"endpoints write", 5, func(ctx context.Context, r *rand.Rand) error {
			endpoints := &corev1.Endpoints{ObjectMeta: u.at(r, "service", 3), Subsets: someSubsets(r)}
			if err := u.create(ctx, endpoints); !apierrors.IsAlreadyExists(err) {
				return err
			}
			return change(ctx, u.client, &corev1.Endpoints{ObjectMeta: endpoints.ObjectMeta}, func(object *corev1.Endpoints) { object.Subsets = someSubsets(r) })
		}},
		operation{"endpoints delete", 2, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, &corev1.Endpoints{ObjectMeta: u.at(r, "service", 3)})
		}},
		operation{"claim create", 4, func(ctx context.Context, r *rand.Rand) error {
			class := one(r, offeredClass, offeredClass, offeredClass, "internal", "")
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: u.at(r, "claim", 2), Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			}}
			if class != "" {
				claim.Spec.StorageClassName = &class
			}
			return u.create(ctx, claim)
		}},
		operation{"claim grow", 3, func(ctx context.Context, r *rand.Rand) error {
			return change(ctx, u.client, &corev1.PersistentVolumeClaim{ObjectMeta: u.at(r, "claim", 2)}, func(object *corev1.PersistentVolumeClaim) {
				size := object.Spec.Resources.Requests[corev1.ResourceStorage]
				size.Add(resource.MustParse("1Gi"))
				object.Spec.Resources.Requests[corev1.ResourceStorage] = size
			})
		}},
		operation{"claim delete", 2, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: u.at(r, "claim", 2)})
		}},
		operation{"networkpolicy create", 4, func(ctx context.Context, r *rand.Rand) error {
			at := u.at(r, "policy", 2)
			if chance(r, 10) {
				at.Name = "fence-deny"
			}
			return u.create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: at, Spec: somePolicy(r)})
		}},
		operation{"networkpolicy change", 4, func(ctx context.Context, r *rand.Rand) error {
			return change(ctx, u.client, &networkingv1.NetworkPolicy{ObjectMeta: u.at(r, "policy", 2)}, func(object *networkingv1.NetworkPolicy) { object.Spec = somePolicy(r) })
		}},
		operation{"networkpolicy delete", 3, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, &networkingv1.NetworkPolicy{ObjectMeta: u.at(r, "policy", 2)})
		}},
	)
}

// tampering is what a tenant may do to the objects that the syncer has made there.
func (u user) tampering() []operation {
	return []operation{
		{"node tamper", 2, func(ctx context.Context, r *rand.Rand) error {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(r.IntN(nodeCount))}}
			if chance(r, 30) {
				return u.client.Delete(ctx, node)
			}
			return change(ctx, u.client, node, func(object *corev1.Node) { object.Spec.Unschedulable = !object.Spec.Unschedulable })
		}},
		{"storageclass delete", 1, func(ctx context.Context, _ *rand.Rand) error {
			return u.client.Delete(ctx, storageClass())
		}},
		{"lease delete", 1, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, nodeLease(nodeName(r.IntN(nodeCount))))
		}},
	}
}

func someData(r *rand.Rand) map[string]string {
	return map[string]string{one(r, "a", "b", "c"): fmt.Sprint(r.IntN(1000)), "constant": "x"}
}

func someService(r *rand.Rand) corev1.ServiceSpec {
	spec := corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(one(r, int32(80), 8080))}}}
	if chance(r, 70) {
		spec.Selector = map[string]string{"app": one(r, "web", "db", "queue")}
	}
	if chance(r, 30) {
		spec.Ports = append(spec.Ports, corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP})
	}
	switch r.IntN(6) {
	case 0:
		spec.ClusterIP = corev1.ClusterIPNone
	case 1:
		spec.Type = corev1.ServiceTypeLoadBalancer
	case 2:
		spec.Type = corev1.ServiceTypeNodePort
	case 3:
		spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "outside.example"}
	}
	return spec
}

func (u user) changeService(ctx context.Context, r *rand.Rand) error {
	service := &corev1.Service{ObjectMeta: u.at(r, "service", 3)}
	return change(ctx, u.client, service, func(object *corev1.Service) {
		fresh := someService(r)
		switch r.IntN(4) {
		case 0:
			object.Labels = someLabels(r)
		case 1:
			if object.Spec.Type != corev1.ServiceTypeExternalName && len(fresh.Ports) > 0 {
				object.Spec.Ports = fresh.Ports
			}
		case 2:
			object.Spec.Selector = fresh.Selector
		case 3:
			if object.Spec.ClusterIP != corev1.ClusterIPNone && object.Spec.Type != corev1.ServiceTypeExternalName {
				object.Spec.Type = one(r, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer)
			}
		}
	})
}

func someSubsets(r *rand.Rand) []corev1.EndpointSubset {
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}
	for range 1 + r.IntN(2) {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: fmt.Sprintf("192.0.2.%d", 1+r.IntN(250))})
	}
	return []corev1.EndpointSubset{subset}
}

func somePolicy(r *rand.Rand) networkingv1.NetworkPolicySpec {
	spec := networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
	if chance(r, 70) {
		spec.PodSelector.MatchLabels = map[string]string{"app": one(r, "web", "db", "queue")}
	}
	if chance(r, 40) {
		spec.PolicyTypes = append(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	if chance(r, 30) {
		spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	}
	peer := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}
	if chance(r, 50) {
		peer.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{churnPrefix + "color": "a"}}
	}
	if chance(r, 20) {
		peer = networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "203.0.113.0/24"}}
	}
	if spec.PolicyTypes[0] == networkingv1.PolicyTypeIngress {
		spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}}}
	}
	return spec
}

// evict asks for a pod to be evicted, which is how it is drained.
func evict(ctx context.Context, c client.Client, pod *corev1.Pod) error {
	return c.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}})
}
