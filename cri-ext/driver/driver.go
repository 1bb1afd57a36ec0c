// Package driver knows which way leads into the sandboxes of which runtime handler.
package driver

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/cri-ext/guest"
	"github.com/bulkhead-dev/bulkhead/cri-ext/netns"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Kinds of ways.
const (
	// Netns is the sandbox's network namespace on the node.
	Netns = "netns"
	// Hybrid is a vsock behind the monitor's unix socket.
	Hybrid = "hybrid-vsock"
	// Serial is a virtio-serial port behind the monitor's unix socket.
	Serial = "virtio-serial"
	// Kata is what a Kata shim says of its guest's agent: a hybrid vsock or AF_VSOCK.
	Kata = "kata-shim"
)

// idPlace stands for the sandbox's ID in a path.
const idPlace = "{id}"

// Rule says which way leads into the sandboxes of a runtime handler.
type Rule struct {
	Handler string
	Kind    string
	// Path is the socket, with {id} for the sandbox's ID; empty for Netns.
	Path string
}

// handlerName is the name of a runtime handler, as a RuntimeClass has it.
var handlerName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// ParseRule reads HANDLER=KIND[:PATH].
func ParseRule(text string) (Rule, error) {
	handler, way, found := strings.Cut(text, "=")
	kind, path, hasPath := strings.Cut(way, ":")
	rule := Rule{Handler: handler, Kind: kind, Path: path}
	switch {
	case !found || !handlerName.MatchString(handler):
		return Rule{}, fmt.Errorf("%q does not begin with the name of a runtime handler and =", text)
	case !slices.Contains([]string{Netns, Hybrid, Serial, Kata}, kind):
		return Rule{}, fmt.Errorf("%q: there is no way %q, but %s, %s, %s and %s", text, kind, Netns, Hybrid, Serial, Kata)
	case kind == Netns && hasPath:
		return Rule{}, fmt.Errorf("%q: %s takes no path", text, kind)
	case kind == Netns:
		return rule, nil
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return Rule{}, fmt.Errorf("%q: the path must be absolute and plain", text)
	case strings.Count(path, idPlace) != 1:
		// Without it all sandboxes would share a socket.
		return Rule{}, fmt.Errorf("%q: the path must have %s in it, once, for the sandbox's ID", text, idPlace)
	case strings.ContainsAny(strings.ReplaceAll(path, idPlace, ""), "{}"):
		return Rule{}, fmt.Errorf("%q: nothing but %s is replaced in the path", text, idPlace)
	}
	return rule, nil
}

// Rules is a list of rules, and a flag.Value.
type Rules []Rule

// String is the list as flags have it.
func (r *Rules) String() string {
	var all []string
	for _, rule := range *r {
		text := rule.Handler + "=" + rule.Kind
		if rule.Path != "" {
			text += ":" + rule.Path
		}
		all = append(all, text)
	}
	return strings.Join(all, ",")
}

// Set adds a rule.
func (r *Rules) Set(text string) error {
	rule, err := ParseRule(text)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(*r, func(other Rule) bool { return other.Handler == rule.Handler }) {
		return fmt.Errorf("runtime handler %s is there twice", rule.Handler)
	}
	*r = append(*r, rule)
	return nil
}

// Type is the word for the flag's value in help.
func (r *Rules) Type() string { return "handler=way" }

// Drivers make channels.
type Drivers struct {
	Rules Rules
	// Engines are those that may carry rules in network namespaces; empty for all.
	Engines []string
	// Port is the agent's vsock port in guests.
	Port uint32

	guests transport.Registry
}

// sandboxID is what containerd and CRI-O give: it becomes part of a path.
var sandboxID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Open makes the channel into a sandbox, without connecting yet.
func (d *Drivers) Open(recipient ruleset.Recipient, status cri.Status) (channel.Channel, error) {
	rule := Rule{Kind: Netns}
	for _, r := range d.Rules {
		if r.Handler == status.Handler {
			rule = r
		}
	}
	if rule.Kind == Netns {
		if status.NetworkNamespace == "" {
			return nil, errors.New("the runtime does not say where the sandbox's network namespace is")
		}
		return netns.New(recipient, status.NetworkNamespace, status.IPs, d.Engines), nil
	}
	if !sandboxID.MatchString(status.ID) {
		return nil, fmt.Errorf("the sandbox's ID %q is not 64 hexadecimal digits, and can be no part of a path", status.ID)
	}
	path := strings.ReplaceAll(rule.Path, idPlace, status.ID)
	dialer, err := d.dialer(rule.Kind, status.ID, path)
	if err != nil {
		return nil, err
	}
	return guest.NewClient(recipient, dialer, guest.Limits{}), nil
}

func (d *Drivers) dialer(kind, sandbox, path string) (transport.Dialer, error) {
	switch socket := (transport.Socket{Path: path}); kind {
	case Hybrid:
		return d.guests.Hybrid(sandbox, socket, d.Port)
	case Serial:
		return d.guests.Serial(sandbox, socket)
	default:
		return &shim{registry: &d.guests, sandbox: sandbox, socket: path, port: d.Port}, nil
	}
}
