// Package node tells about the node this vn-agent runs on, as the super cluster
// has it.
package node

import (
	"context"
	"fmt"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Node is one node of the super cluster.
type Node struct {
	// Name of the node, the same in every tenant's cluster.
	Name string
	// Reader reads the Node object; a cache.
	Reader client.Reader
}

// CacheOptions narrow a watch of nodes to the one.
func CacheOptions(name string) cache.ByObject {
	return cache.ByObject{Field: fields.OneTermEqualSelector("metadata.name", name)}
}

// KubeletAddress is the host:port at which the node's kubelet serves.
func (n Node) KubeletAddress(ctx context.Context) (string, error) {
	object, err := n.get(ctx)
	if err != nil {
		return "", err
	}
	addresses := internalIPs(object)
	if len(addresses) == 0 {
		return "", fmt.Errorf("node %s has no InternalIP yet", n.Name)
	}
	port := object.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		return "", fmt.Errorf("node %s does not tell its kubelet's port", n.Name)
	}
	return net.JoinHostPort(addresses[0].String(), strconv.Itoa(int(port))), nil
}

// InternalIPs are the addresses at which tenants' apiservers reach the node.
func (n Node) InternalIPs(ctx context.Context) ([]net.IP, error) {
	object, err := n.get(ctx)
	if err != nil {
		return nil, err
	}
	return internalIPs(object), nil
}

func (n Node) get(ctx context.Context) (*corev1.Node, error) {
	var object corev1.Node
	if err := n.Reader.Get(ctx, client.ObjectKey{Name: n.Name}, &object); err != nil {
		return nil, fmt.Errorf("reading node %s: %w", n.Name, err)
	}
	return &object, nil
}

func internalIPs(object *corev1.Node) []net.IP {
	var addresses []net.IP
	for _, address := range object.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		if ip := net.ParseIP(address.Address); ip != nil {
			addresses = append(addresses, ip)
		}
	}
	return addresses
}
