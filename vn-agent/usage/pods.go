// Package usage cuts what a kubelet says about the use of its node down to what
// one tenant may see: the tenant's own pods under the tenant's names, and as the
// node's figures what these pods use together. Everything else is left out, so
// that no tenant can read another's load from a node they share.
//
// The functions are pure but for the Counter they are given. They keep only what
// they know: a metric family or field that a later kubelet adds does not pass.
package usage

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/vn-agent/pods"
)

// Pods are one tenant's pods on this node, by what the kubelet calls them.
type Pods struct {
	byName map[types.NamespacedName]pods.Pod
	byUID  map[types.UID]bool
}

// NewPods indexes a tenant's pods.
func NewPods(list []pods.Pod) Pods {
	p := Pods{byName: make(map[types.NamespacedName]pods.Pod, len(list)), byUID: make(map[types.UID]bool, len(list))}
	for _, pod := range list {
		p.byName[pod.Super] = pod
		p.byUID[pod.SuperUID] = true
	}
	return p
}

func (p Pods) find(namespace, name string) (pods.Pod, bool) {
	pod, ok := p.byName[types.NamespacedName{Namespace: namespace, Name: name}]
	return pod, ok
}

func (p Pods) exists(uid types.UID) bool { return p.byUID[uid] }
