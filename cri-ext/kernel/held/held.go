// Package held is what a rule engine finds of an earlier process in a kernel.
package held

import (
	"net/netip"
	"sort"

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

// Services cuts out those of one IP family: IPv4 comes first in the order of keys.
func Services(all []ruleset.Service, v4 bool) []ruleset.Service {
	return cut(all, v4, func(s *ruleset.Service) bool { return s.Addr.Is6() })
}

// Keys cuts out those of one IP family.
func Keys(all []ruleset.Key, v4 bool) []ruleset.Key {
	return cut(all, v4, func(k *ruleset.Key) bool { return k.Addr.Is6() })
}

// Ranges cuts out those of one IP family.
func Ranges(all []netip.Prefix, v4 bool) []netip.Prefix {
	return cut(all, v4, func(p *netip.Prefix) bool { return p.Addr().Is6() })
}

func cut[T any](all []T, v4 bool, is6 func(*T) bool) []T {
	border := sort.Search(len(all), func(i int) bool { return is6(&all[i]) })
	if v4 {
		return all[:border]
	}
	return all[border:]
}

// Differences counts the services that only one side has, or that are not the same.
// Both are in the order of keys; same compares a wanted one with what was got at j.
func Differences(want, got []ruleset.Service, same func(want *ruleset.Service, j int) bool) int {
	count, i, j := 0, 0, 0
	for i < len(want) || j < len(got) {
		order := 0
		switch {
		case i == len(want):
			order = 1
		case j == len(got):
			order = -1
		default:
			order = want[i].Compare(got[j].Key)
		}
		switch {
		case order < 0:
			i++
			count++
		case order > 0:
			j++
			count++
		default:
			if !same(&want[i], j) {
				count++
			}
			i++
			j++
		}
	}
	return count
}
