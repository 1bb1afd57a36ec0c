package policy

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// Model is one node's view. It is not safe for concurrent use.
type Model struct {
	table *table.Table

	pods       map[types.NamespacedName]*Pod
	inside     map[string]map[types.NamespacedName]*Pod // by namespace
	namespaces map[string]labels.Set
	policies   map[string]map[string]*parsed // by namespace and name

	// holders are the local pods that have an address: two for a moment, when one has
	// been given the address of another.
	holders map[netip.Addr]map[types.NamespacedName]*Pod
	// profiles are the chains that judge a local pod, by direction; empty for none.
	profiles map[types.NamespacedName][2]string

	shared map[string]*shared
	peers  map[string]*peers
	named  map[namedPort]*named
}

// New makes an empty model.
func New() *Model {
	return &Model{
		table: table.New(),
		pods:  map[types.NamespacedName]*Pod{}, inside: map[string]map[types.NamespacedName]*Pod{},
		namespaces: map[string]labels.Set{}, policies: map[string]map[string]*parsed{},
		holders: map[netip.Addr]map[types.NamespacedName]*Pod{}, profiles: map[types.NamespacedName][2]string{},
		shared: map[string]*shared{}, peers: map[string]*peers{}, named: map[namedPort]*named{},
	}
}

// Table is what follows from all that the model was told. It changes with the model.
func (m *Model) Table() *table.Table { return m.table }

// LocalPods counts the pods of this node.
func (m *Model) LocalPods() int { return len(m.profiles) }

// Knows tells whether a pod of this node is known by its UID, with these addresses.
func (m *Model) Knows(name types.NamespacedName, uid types.UID, addresses []netip.Addr) bool {
	pod := m.pods[name]
	return pod != nil && pod.Local && pod.UID == uid &&
		!slices.ContainsFunc(addresses, func(address netip.Addr) bool { return !slices.Contains(pod.Addresses, address) })
}

// Selects tells whether a policy selects a local pod.
func (m *Model) Selects(policy types.NamespacedName) bool {
	p := m.policies[policy.Namespace][policy.Name]
	if p == nil {
		return false
	}
	return slices.ContainsFunc(directions, func(d direction) bool { return m.shared[policyKey(p, d)] != nil })
}

// SetInterfaces gives the interfaces that no local pod is behind.
func (m *Model) SetInterfaces(outside []string) {
	set := m.table.Sets[table.Outside]
	for element := range set.Elements {
		if !slices.Contains(outside, element.Interface) {
			set.Remove(element)
		}
	}
	for _, name := range outside {
		set.Put(table.Element{Interface: name}, table.Verdict{})
	}
}

// SetPodNetworks gives the networks that local pods' addresses are from.
func (m *Model) SetPodNetworks(networks []netip.Prefix) {
	for _, family := range table.Families {
		var ranges []addressRange
		for _, network := range networks {
			if table.FamilyOf(network.Addr()) == family {
				ranges = append(ranges, rangeOf(network))
			}
		}
		want := rangeElements(merged(ranges))
		set := m.table.Sets[table.Named(table.PodNetworks, family)]
		for element := range set.Elements {
			if !slices.Contains(want, element) {
				set.Remove(element)
			}
		}
		for _, element := range want {
			set.Put(element, table.Verdict{})
		}
	}
}

// SetPod adds a pod or what has changed of it.
func (m *Model) SetPod(pod Pod) {
	before := m.pods[pod.NamespacedName]
	if before != nil && reflect.DeepEqual(*before, pod) {
		return // most of what happens to a pod is none of the fence's business
	}
	m.movePeers(before, &pod)
	m.pods[pod.NamespacedName] = &pod
	if m.inside[pod.Namespace] == nil {
		m.inside[pod.Namespace] = map[types.NamespacedName]*Pod{}
	}
	m.inside[pod.Namespace][pod.NamespacedName] = &pod
	m.moveLocal(before, &pod)
}

// DeletePod removes a pod, if there is one of that name.
func (m *Model) DeletePod(name types.NamespacedName) {
	before := m.pods[name]
	if before == nil {
		return
	}
	m.movePeers(before, nil)
	delete(m.pods, name)
	delete(m.inside[name.Namespace], name)
	if len(m.inside[name.Namespace]) == 0 {
		delete(m.inside, name.Namespace)
	}
	m.moveLocal(before, nil)
}

// SetNamespace gives a namespace's labels.
func (m *Model) SetNamespace(name string, set map[string]string) {
	if before, known := m.namespaces[name]; known && labels.Equals(before, set) {
		return
	}
	m.relabel(name, func() { m.namespaces[name] = set })
}

// DeleteNamespace forgets a namespace's labels.
func (m *Model) DeleteNamespace(name string) {
	m.relabel(name, func() { delete(m.namespaces, name) })
}

// relabel moves a namespace's pods out of the sets that depend on its labels, and
// into those that do afterwards.
func (m *Model) relabel(name string, change func()) {
	before := map[*peers]bool{}
	for _, p := range m.peers {
		before[p] = p.matchesNamespace(m, name)
	}
	change()
	for _, p := range m.peers {
		after := p.matchesNamespace(m, name)
		if before[p] == after {
			continue
		}
		for _, pod := range m.inside[name] {
			switch {
			case !p.pods.Matches(labels.Set(pod.Labels)):
			case after:
				p.add(m, pod)
			default:
				p.remove(m, pod)
			}
		}
	}
}

// SetPolicy adds a policy or what has changed of it, and returns what of it cannot
// be read.
func (m *Model) SetPolicy(policy *networkingv1.NetworkPolicy) (problems []string) {
	p, problems := parse(policy)
	if m.policies[p.Namespace] == nil {
		m.policies[p.Namespace] = map[string]*parsed{}
	}
	m.policies[p.Namespace][p.Name] = p
	for _, d := range directions {
		m.recompile(p, d)
	}
	m.judgeNamespace(p.Namespace)
	return problems
}

// DeletePolicy removes a policy, if there is one of that name.
func (m *Model) DeletePolicy(name types.NamespacedName) {
	delete(m.policies[name.Namespace], name.Name)
	if len(m.policies[name.Namespace]) == 0 {
		delete(m.policies, name.Namespace)
	}
	m.judgeNamespace(name.Namespace)
}

// judgeNamespace finds anew what judges the local pods of a namespace.
func (m *Model) judgeNamespace(namespace string) {
	for _, pod := range m.inside[namespace] {
		if pod.Local {
			m.judgeBy(pod)
		}
	}
}

// judgeBy gives a local pod the chains of the policies that select it. A pod that
// none selects in a direction may do what it likes.
func (m *Model) judgeBy(pod *Pod) {
	before := m.profiles[pod.NamespacedName]
	var after [2]string
	for _, d := range directions {
		var selecting []*parsed
		for _, p := range m.policies[pod.Namespace] {
			if p.applies[d] && p.selector.Matches(labels.Set(pod.Labels)) {
				selecting = append(selecting, p)
			}
		}
		if len(selecting) > 0 {
			slices.SortFunc(selecting, func(a, b *parsed) int { return strings.Compare(a.Name, b.Name) })
			after[d] = m.acquireProfile(d, selecting)
		}
	}
	m.profiles[pod.NamespacedName] = after
	for _, address := range pod.Addresses {
		m.settle(address)
	}
	// Only now is nothing left that leads there.
	for _, d := range directions {
		m.release(before[d])
	}
}

// moveLocal changes what is held for a local pod.
func (m *Model) moveLocal(before, after *Pod) {
	if before != nil && before.Local {
		for _, address := range before.Addresses {
			delete(m.holders[address], before.NamespacedName)
			if len(m.holders[address]) == 0 {
				delete(m.holders, address)
			}
			m.settle(address)
		}
		if after == nil || !after.Local {
			profile := m.profiles[before.NamespacedName]
			delete(m.profiles, before.NamespacedName)
			for _, d := range directions {
				m.release(profile[d])
			}
		}
	}
	if after == nil || !after.Local {
		return
	}
	for _, address := range after.Addresses {
		if m.holders[address] == nil {
			m.holders[address] = map[types.NamespacedName]*Pod{}
		}
		m.holders[address][after.NamespacedName] = after
	}
	m.judgeBy(after)
}

// settle writes what judges an address: that of the pod which was made last.
func (m *Model) settle(address netip.Addr) {
	var holder *Pod
	for _, pod := range m.holders[address] {
		if holder == nil || pod.Created.After(holder.Created) || (pod.Created.Equal(holder.Created) && pod.UID > holder.UID) {
			holder = pod
		}
	}
	family := table.FamilyOf(address)
	element := table.Element{From: address}
	for d, name := range []string{ingress: table.To, egress: table.From} {
		set := m.table.Sets[table.Named(name, family)]
		if holder == nil {
			set.Remove(element)
			continue
		}
		verdict := table.Verdict{Action: table.Pass}
		if profile := m.profiles[holder.NamespacedName][d]; profile != "" {
			verdict = table.Verdict{Action: table.Jump, Chain: profile}
		}
		set.Put(element, verdict)
	}
}
