package policy

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Pod is what counts of a pod.
type Pod struct {
	types.NamespacedName
	UID       types.UID
	Created   time.Time
	Labels    map[string]string
	Addresses []netip.Addr
	Ports     []NamedPort
	// Local pods run on this node.
	Local bool
}

// NamedPort is a port of a container.
type NamedPort struct {
	Name     string
	Protocol uint8
	Port     uint16
}

// NewPod reads a pod. ok is false for one that has no addresses of its own: it has
// none yet, or not any more, or uses its node's. announced are addresses of it that
// the super cluster may not know yet; without any those count that it knows.
func NewPod(pod *corev1.Pod, node string, announced []netip.Addr) (p Pod, ok bool) {
	if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return Pod{}, false
	}
	p = Pod{
		NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name},
		UID:            pod.UID, Created: pod.CreationTimestamp.Time, Labels: pod.Labels, Local: pod.Spec.NodeName == node,
	}
	if p.Addresses = announced; len(announced) == 0 {
		p.Addresses = Addresses(pod)
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, container := range containers {
			for _, port := range container.Ports {
				protocol, known := protocolNumber(port.Protocol)
				if port.Name != "" && known && port.ContainerPort > 0 && port.ContainerPort <= 65535 {
					p.Ports = append(p.Ports, NamedPort{Name: port.Name, Protocol: protocol, Port: uint16(port.ContainerPort)})
				}
			}
		}
	}
	return p, len(p.Addresses) > 0
}

// Addresses are those that the super cluster knows of a pod.
func Addresses(pod *corev1.Pod) []netip.Addr {
	var addresses []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if address, err := netip.ParseAddr(ip.IP); err == nil {
			addresses = append(addresses, address.Unmap().WithZone(""))
		}
	}
	return addresses
}

// Trim leaves of a pod, in place, what NewPod reads.
func Trim(pod *corev1.Pod) {
	trimmed := corev1.Pod{}
	trimmed.Namespace, trimmed.Name, trimmed.UID = pod.Namespace, pod.Name, pod.UID
	trimmed.ResourceVersion, trimmed.CreationTimestamp, trimmed.Labels = pod.ResourceVersion, pod.CreationTimestamp, pod.Labels
	trimmed.Spec.NodeName, trimmed.Spec.HostNetwork = pod.Spec.NodeName, pod.Spec.HostNetwork
	trimmed.Spec.InitContainers, trimmed.Spec.Containers = trimContainers(pod.Spec.InitContainers), trimContainers(pod.Spec.Containers)
	trimmed.Status.Phase, trimmed.Status.PodIPs = pod.Status.Phase, pod.Status.PodIPs
	*pod = trimmed
}

func trimContainers(containers []corev1.Container) []corev1.Container {
	var trimmed []corev1.Container
	for _, container := range containers {
		var ports []corev1.ContainerPort
		for _, port := range container.Ports {
			if port.Name != "" {
				ports = append(ports, port)
			}
		}
		if len(ports) > 0 {
			trimmed = append(trimmed, corev1.Container{Ports: ports})
		}
	}
	return trimmed
}

// Numbers that IANA gave protocols.
const (
	protocolTCP  = 6
	protocolUDP  = 17
	protocolSCTP = 132
)

// protocolNumber is the number of a protocol of the API, of which none means TCP.
func protocolNumber(protocol corev1.Protocol) (uint8, bool) {
	switch protocol {
	case corev1.ProtocolTCP, "":
		return protocolTCP, true
	case corev1.ProtocolUDP:
		return protocolUDP, true
	case corev1.ProtocolSCTP:
		return protocolSCTP, true
	}
	return 0, false
}
