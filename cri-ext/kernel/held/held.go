// Package held is what a rule engine finds of an earlier process in a kernel.
package held

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Part is the part of a rule set that one engine carries: the services and ranges
// of its IP families. Tenant, generation and digest are of the whole set.
type Part struct {
	Tenant     types.UID
	Generation uint64
	Digest     ruleset.Digest
	Ranges     []netip.Prefix
	Services   []ruleset.Service
}

// Merge puts a set together again. ok is false if the parts are not of one set, or
// not all of it.
func Merge(parts []*Part) (set *ruleset.Set, ok bool) {
	if len(parts) == 0 {
		return nil, false
	}
	var ranges []netip.Prefix
	var services []ruleset.Service
	for _, p := range parts {
		if p == nil || p.Tenant != parts[0].Tenant || p.Generation != parts[0].Generation || p.Digest != parts[0].Digest {
			return nil, false
		}
		ranges, services = append(ranges, p.Ranges...), append(services, p.Services...)
	}
	set, err := ruleset.New(parts[0].Tenant, parts[0].Generation, ranges, services)
	if err != nil || set.Digest() != parts[0].Digest {
		return nil, false
	}
	return set, true
}
