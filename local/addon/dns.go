package addon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/bulkhead-dev/bulkhead/local/layout"
)

const (
	dnsTimeout  = 60 * time.Second
	dnsQuestion = time.Second // how long one answer may take
)

// AwaitDNS asks the cluster's DNS, by its Service's address, until it answers. An
// answer shows that nodes, routes, kube-proxy, pods and the apiserver work
// together; what the apiserver says of pods may be older than the last restart.
func AwaitDNS(ctx context.Context, s layout.Settings) error {
	const name = "kubernetes.default.svc." + layout.ClusterDomain + "."
	server := netip.AddrPortFrom(s.DNSServiceIP(), 53).String()
	resolver := &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server)
		},
	}
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollEvery, dnsTimeout, true, func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, dnsQuestion)
		defer cancel()
		addresses, err := resolver.LookupNetIP(ctx, "ip4", name)
		if err == nil && !slices.Contains(addresses, s.APIServiceIP()) {
			err = fmt.Errorf("%s is %v, want %s", name, addresses, s.APIServiceIP())
		}
		last = err
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("the cluster's DNS at %s does not answer: look at `kubectl logs -n kube-system -l k8s-app=kube-dns`: %w", server, errors.Join(last, err))
	}
	return nil
}
