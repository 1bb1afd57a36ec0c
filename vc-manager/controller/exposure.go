package controller

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// exposure is how a tenant's apiserver is reached from outside.
type exposure struct {
	// url for the tenant's kubeconfig; empty while it is not known.
	url string
	// hosts are names and addresses its certificate has to be valid for.
	hosts []string
	// waiting says what has to happen before there is a url.
	waiting string
}

// expose finds out how the apiserver is reached through its Service.
func (p *pass) expose(ctx context.Context, service *corev1.Service) error {
	var nodes corev1.NodeList
	spec := p.input.Class.Exposure
	if spec.Type == tenancyv1alpha1.ExposeNodePort && spec.Host == "" {
		if err := p.Client.List(ctx, &nodes); err != nil {
			return fmt.Errorf("listing nodes: %w", err)
		}
	}
	p.exposure = exposureOf(service, spec, nodes.Items, hostOf(p.vc.Status.Endpoint))
	p.status.Endpoint = p.exposure.url
	return nil
}

// exposureOf reads the addresses out of the Service. Where any node would do,
// previous is kept as long as it is one.
func exposureOf(service *corev1.Service, spec tenancyv1alpha1.ExposureSpec, nodes []corev1.Node, previous string) exposure {
	// The Service's own address works in the super cluster's pods and on its nodes.
	var e exposure
	for _, ip := range service.Spec.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			e.hosts = append(e.hosts, ip)
		}
	}
	switch spec.Type {
	case tenancyv1alpha1.ExposeClusterIP:
		if len(e.hosts) == 0 {
			e.waiting = fmt.Sprintf("waiting for service %s/%s to get an address", service.Namespace, service.Name)
			return e
		}
		e.url = endpoint(e.hosts[0], tenancy.APIServerPort)
	case tenancyv1alpha1.ExposeNodePort:
		host := spec.Host
		if host == "" {
			host = nodeAddress(nodes, previous)
		}
		switch {
		case host == "":
			e.waiting = "waiting for a node with an internal address, or for a host in the class's exposure"
		case len(service.Spec.Ports) == 0 || service.Spec.Ports[0].NodePort == 0:
			e.waiting = fmt.Sprintf("waiting for service %s/%s to get a node port", service.Namespace, service.Name)
		default:
			e.hosts = append(e.hosts, host)
			e.url = endpoint(host, service.Spec.Ports[0].NodePort)
		}
	default:
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			for _, host := range []string{ingress.Hostname, ingress.IP} {
				if host != "" {
					e.hosts = append(e.hosts, host)
					e.url = cmp.Or(e.url, endpoint(host, tenancy.APIServerPort))
				}
			}
		}
		if e.url == "" {
			e.waiting = fmt.Sprintf("waiting for the load balancer of service %s/%s to get an address", service.Namespace, service.Name)
		}
	}
	return e
}

// nodeAddress picks the internal address of a node: previous if a node still has
// it, otherwise that of the first node by name.
func nodeAddress(nodes []corev1.Node, previous string) string {
	nodes = slices.SortedFunc(slices.Values(nodes), func(a, b corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	first := ""
	for _, node := range nodes {
		for _, address := range node.Status.Addresses {
			if address.Type != corev1.NodeInternalIP {
				continue
			}
			if address.Address == previous {
				return previous
			}
			first = cmp.Or(first, address.Address)
		}
	}
	return first
}

func endpoint(host string, port int32) string {
	return "https://" + net.JoinHostPort(host, strconv.Itoa(int(port)))
}

func hostOf(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
