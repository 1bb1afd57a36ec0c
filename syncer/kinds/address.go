package kinds

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// indexAddress finds pods in the super cluster, by tenant and address, and what a
// tenant has written by hand about an address.
const indexAddress = "address"

// The rules against addresses that tenants read in events.
const (
	ruleNoAddress   = "not an IP address"
	ruleNodeAddress = "addresses of the node itself cannot be endpoints"
	ruleOthers      = "neither an address outside of the platform nor one of a pod of this cluster that runs"
)

// place says what becomes of an address that a tenant gives as an endpoint: the node
// behind it, if it is one of the tenant's pods, or the rule against it.
type place func(address string) (node *string, rule string)

// placeIn is the place of addresses in the super cluster. What is not outside of it must
// be the tenant's own: through a load balancer the super cluster's proxies would carry
// anyone from outside past the fence, to other tenants' pods or the platform.
func placeIn(networks tenantnetwork.Networks, ownPod func(netip.Addr) (node string, own bool)) place {
	return func(text string) (node *string, rule string) {
		address, err := netip.ParseAddr(text)
		address = address.Unmap()
		switch {
		case err != nil:
			return nil, ruleNoAddress
		case address.IsLoopback(), address.IsLinkLocalUnicast(), address.IsMulticast(), address.IsUnspecified():
			// They mean the node to whoever forwards to them, or the metadata of clouds.
			return nil, ruleNodeAddress
		}
		if node, own := ownPod(address); own {
			return &node, ""
		}
		if !networks.Outside(address) {
			return nil, ruleOthers
		}
		return nil, ""
	}
}

// placeOf reads the tenant's pods from the cache. The error is of the first read that failed.
func placeOf(ctx context.Context, l *engine.Link, networks tenantnetwork.Networks) (place, *error) {
	var problem error
	return placeIn(networks, func(address netip.Addr) (node string, own bool) {
		var list corev1.PodList
		at := client.MatchingFields{indexAddress: tenantAddress(string(l.Tenant().UID), address)}
		if err := l.SuperReader().List(ctx, &list, at, client.UnsafeDisableDeepCopy); err != nil {
			problem = fmt.Errorf("looking for the pod with address %s: %w", address, err)
		}
		if len(list.Items) == 0 {
			return "", false
		}
		return list.Items[0].Spec.NodeName, true
	}), &problem
}

func tenantAddress(tenant string, address netip.Addr) string { return tenant + "/" + address.String() }

// canonical is the one way to write an address: tenants may write it in others.
func canonical(text string) string {
	if address, err := netip.ParseAddr(text); err == nil {
		return address.Unmap().String()
	}
	return text
}

// podAddresses are a super pod's, while it has them: those of one that has ended may be
// another's by now.
func podAddresses(super *corev1.Pod) []netip.Addr {
	if finished(super) || super.Spec.HostNetwork {
		return nil
	}
	var all []netip.Addr
	for _, ip := range super.Status.PodIPs {
		if address, err := netip.ParseAddr(ip.IP); err == nil {
			all = append(all, address.Unmap())
		}
	}
	return all
}

func indexPodAddresses(o client.Object) []string {
	var keys []string
	for _, address := range podAddresses(o.(*corev1.Pod)) {
		keys = append(keys, tenantAddress(o.GetLabels()[tenancy.LabelTenant], address))
	}
	return keys
}

// enqueueEndpointsOf looks again at what the tenant has written by hand about the
// addresses of a super pod that has come, ended or gone.
func enqueueEndpointsOf(l *engine.Link, super *corev1.Pod) {
	if len(super.Status.PodIPs) == 0 || !l.Filled() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cacheTimeout)
	defer cancel()
	for _, ip := range super.Status.PodIPs {
		at := client.MatchingFields{indexAddress: canonical(ip.IP)}
		// Reads of a cache; they fail only while the link ends.
		if enqueueAll(ctx, l, "endpoints", &corev1.EndpointsList{}, at) != nil || enqueueAll(ctx, l, "endpointslices", &discoveryv1.EndpointSliceList{}, at) != nil {
			return
		}
	}
}
