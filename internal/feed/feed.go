// Package feed is what tenant-proxy and cri-ext say to each other on a node:
// tenant-proxy which pod belongs to which tenant and what each tenant's rules are,
// cri-ext what became of them.
//
// cri-ext listens on a unix socket that root alone can reach; tenant-proxy dials.
// Messages are frames (internal/frame): JSON where they are small, the encoding of
// internal/ruleset where they carry rules.
//
//	server: hello(what it holds)        client: hello
//	                                    client: pod..., pods complete, set | delta | pending | forget...
//	server: resend, report, metrics     client: metrics request
//
// Both ends say everything anew on a new connection, so either may restart. Sets are
// numbered by the client, which goes on from what the server says it holds.
package feed

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// DefaultSocket is where cri-ext listens. Its directory holds nothing else, because
// tenant-proxy has all of it mounted.
const DefaultSocket = "/run/cri-ext/feed.sock"

// Pod is a pod of the super cluster on this node, and the tenant that it belongs to
// by our own records.
type Pod struct {
	UID       types.UID `json:"uid"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Tenant    types.UID `json:"tenant"`
	// ControlPlane tells a pod of the tenant's control plane.
	ControlPlane bool `json:"controlPlane,omitempty"`
}

// Reasons of reports.
const (
	RulesInjected        = "RulesInjected"
	RulesPending         = "RulesPending"
	RulesInjectionFailed = "RulesInjectionFailed"
	BackendFallback      = "BackendFallback"
)

// Report is for an Event on a pod of the super cluster.
type Report struct {
	Pod     Pod       `json:"pod"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Warning bool      `json:"warning,omitempty"`
	Time    time.Time `json:"time"`
}

// Held is a tenant's rules that the server has.
type Held struct {
	Tenant     types.UID
	Generation uint64
	Digest     ruleset.Digest
}

// Bounds of what one feeder may say.
const (
	// MaxPods is the number of pods of tenants on a node.
	MaxPods = 16384
	// MaxTenants is the number of tenants on a node.
	MaxTenants = 8192
	// maxSmall is the longest JSON message from the client in bytes.
	maxSmall = 64 << 10
	// maxToServer is the longest frame from the client: a set at all its bounds is
	// within 8 MiB.
	maxToServer = 16 << 20
	// maxToClient is the longest frame from the server.
	maxToClient = 16 << 20
)

// Times that either end gives the other.
const (
	// greetTimeout is for the first message.
	greetTimeout = 10 * time.Second
	// writeTimeout is for the peer to take one message.
	writeTimeout = 30 * time.Second
)
