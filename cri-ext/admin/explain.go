package admin

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Trace is the answer to "trace": what becomes of a connection that a container of
// the pod makes.
type Trace struct {
	Pod sandbox.View `json:"pod"`
	// Frontend is what was asked for.
	Frontend string `json:"frontend"`
	// Outcome is Translated, Refused or Untouched.
	Outcome string `json:"outcome"`
	// Why says it in words.
	Why     string   `json:"why"`
	Service *Service `json:"service,omitempty"`
}

// Outcomes of a trace.
const (
	Translated = "Translated"
	Refused    = "Refused"
	Untouched  = "Untouched"
)

// explain says what becomes of a connection to key from a pod that should hold set,
// which is nil if it gets no rules.
func explain(set *ruleset.Set, view sandbox.View, key ruleset.Key) Trace {
	trace := Trace{Pod: view, Frontend: key.String(), Outcome: Untouched}
	if set == nil {
		trace.Why = fmt.Sprintf("the pod has no service rules: %s, %s", view.State, view.Reason)
		return trace
	}
	service, found := set.Find(key)
	within := slices.ContainsFunc(set.Ranges(), func(p netip.Prefix) bool { return p.Contains(key.Addr) })
	others := frontendsAt(set, key.Addr)
	switch {
	case found && len(service.Endpoints) == 0:
		trace.Outcome, trace.Why = Refused, "the service is there, but has no endpoint: none of its pods is ready, or none may be used from this node"
	case found:
		trace.Outcome, trace.Why = Translated, "it goes to one of the endpoints"
		if service.Affinity > 0 {
			trace.Why = "it goes to one of the endpoints, and always to the same as long as that is there (session affinity)"
		}
	case within && len(others) > 0:
		trace.Outcome, trace.Why = Refused, "the address is a service's, but not with this port and protocol; it has "+strings.Join(others, ", ")
	case within:
		trace.Outcome, trace.Why = Refused, "the address is of the network of ClusterIPs, and no service has it"
	case len(others) > 0:
		trace.Why = "it is sent on as it is: the address is known, but not with this port and protocol; it has " + strings.Join(others, ", ")
	default:
		trace.Why = "it is sent on as it is: the address is of no service, and outside of the networks of ClusterIPs " + prefixes(set.Ranges())
	}
	if found {
		trace.Service = &fromRules([]ruleset.Service{service})[0]
	}
	if view.Generation != view.Wanted {
		trace.Why += fmt.Sprintf(" (by generation %d of the rules; the sandbox holds generation %d: %s %s)", view.Wanted, view.Generation, view.State, view.Error)
	}
	return trace
}

// frontendsShown bounds a list for people.
const frontendsShown = 10

func frontendsAt(set *ruleset.Set, addr netip.Addr) []string {
	var all []string
	for _, s := range set.Services() {
		if s.Addr == addr && len(all) < frontendsShown {
			all = append(all, fmt.Sprintf("%d/%s", s.Port, s.Protocol))
		}
	}
	return all
}

func prefixes(all []netip.Prefix) string {
	var texts []string
	for _, p := range all {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}

// compare finds the differences between two lists of services in the order of keys.
func compare(wanted, live []ruleset.Service) []Difference {
	all := []Difference{}
	one := func(s ruleset.Service) *Service { return &fromRules([]ruleset.Service{s})[0] }
	for len(wanted) > 0 || len(live) > 0 {
		switch {
		case len(live) == 0 || len(wanted) > 0 && wanted[0].Compare(live[0].Key) < 0:
			all = append(all, Difference{What: "missing", Wanted: one(wanted[0])})
			wanted = wanted[1:]
		case len(wanted) == 0 || wanted[0].Compare(live[0].Key) > 0:
			all = append(all, Difference{What: "unexpected", Live: one(live[0])})
			live = live[1:]
		default:
			if wanted[0].Affinity != live[0].Affinity || !slices.Equal(wanted[0].Endpoints, live[0].Endpoints) {
				all = append(all, Difference{What: "different", Wanted: one(wanted[0]), Live: one(live[0])})
			}
			wanted, live = wanted[1:], live[1:]
		}
	}
	return all
}
