// Package admin lets root on the node ask cri-ext what it knows and does: HTTP and
// JSON over a unix socket, and the client that the command line uses.
package admin

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// DefaultSocket is where cri-ext listens for the command line.
const DefaultSocket = "/run/cri-ext-host/admin.sock"

// Status is the answer to "status".
type Status struct {
	sandbox.Summary
	Version string `json:"version"`
	Runtime string `json:"runtime"`
	// RuntimeError is why the runtime does not answer, empty if it does.
	RuntimeError string `json:"runtimeError,omitempty"`
	Feed         string `json:"feed"`
}

// Service is a frontend and its endpoints.
type Service struct {
	Address   netip.Addr       `json:"address"`
	Port      uint16           `json:"port"`
	Protocol  string           `json:"protocol"`
	Affinity  uint32           `json:"affinitySeconds,omitempty"`
	Endpoints []netip.AddrPort `json:"endpoints"`
}

func fromRules(services []ruleset.Service) []Service {
	all := make([]Service, 0, len(services))
	for _, s := range services {
		endpoints := s.Endpoints
		if endpoints == nil {
			endpoints = []netip.AddrPort{}
		}
		all = append(all, Service{Address: s.Addr, Port: s.Port, Protocol: s.Protocol.String(), Affinity: s.Affinity, Endpoints: endpoints})
	}
	return all
}

// Rules is the answer to "rules".
type Rules struct {
	Pod sandbox.View `json:"pod"`
	// Live tells that they were read from the sandbox's kernel.
	Live       bool           `json:"live"`
	Generation uint64         `json:"generation,omitempty"`
	Ranges     []netip.Prefix `json:"ranges,omitempty"`
	Services   []Service      `json:"services"`
}

// Difference is how one service in a kernel is other than it should be.
type Difference struct {
	// What is missing, unexpected or different.
	What   string   `json:"what"`
	Wanted *Service `json:"wanted,omitempty"`
	Live   *Service `json:"live,omitempty"`
}

// Diff is the answer to "diff".
type Diff struct {
	Pod         sandbox.View `json:"pod"`
	Differences []Difference `json:"differences"`
}

// Probe is the answer to "probe".
type Probe struct {
	Pod   sandbox.View  `json:"pod"`
	Hello channel.Hello `json:"hello"`
	Took  string        `json:"took"`
}

// Resync is the answer to "resync", one for each sandbox.
type Resync struct {
	Sandbox  string `json:"sandbox"`
	Pod      string `json:"pod"`
	Repaired int    `json:"repaired"`
	Error    string `json:"error,omitempty"`
}

// ParseFrontend reads ADDRESS:PORT[/PROTOCOL], by default of TCP.
func ParseFrontend(text string) (ruleset.Key, error) {
	address, protocol, has := strings.Cut(text, "/")
	at, err := netip.ParseAddrPort(address)
	if err != nil || at.Addr().Zone() != "" {
		return ruleset.Key{}, fmt.Errorf("%q is no address of a service: want ADDRESS:PORT or ADDRESS:PORT/PROTOCOL, such as 10.96.0.10:53/udp", text)
	}
	key := ruleset.Key{Addr: at.Addr().Unmap(), Port: at.Port(), Protocol: ruleset.TCP}
	if !has {
		return key, nil
	}
	for _, known := range []ruleset.Protocol{ruleset.TCP, ruleset.UDP, ruleset.SCTP} {
		if strings.EqualFold(protocol, known.String()) {
			key.Protocol = known
			return key, nil
		}
	}
	return ruleset.Key{}, fmt.Errorf("%q: services are of tcp, udp or sctp, not %s", text, strconv.Quote(protocol))
}
