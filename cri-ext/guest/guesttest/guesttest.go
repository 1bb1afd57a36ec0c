// Package guesttest starts a guest for tests and benchmarks: a microVM with Debian's
// kernel and cri-ext-agent on a virtio-serial port, and cri-ext's channel to it.
package guesttest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/guest"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/microvm"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// The guest's ports, and its addresses where it has a network.
const (
	AgentPort   = "bulkhead.cri-ext"
	ControlPort = "bulkhead.control"
	Address     = "10.78.0.2/24"
	Gateway     = "10.78.0.1"
)

// Recipient is the sandbox that StartGuest's channel leads to.
var Recipient = ruleset.Recipient{Tenant: "guesttest-tenant", Sandbox: "guesttest-sandbox"}

// filterModules are what nftables needs of Debian's kernel. Beside IPVS it refuses
// what has no service.
var filterModules = []string{
	"nf_conntrack_netlink", "nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_numgen",
	"nft_reject_inet", "nft_reject_ipv4", "nft_reject_ipv6",
}

// engineModules are what each engine needs.
var engineModules = map[string][]string{
	"ipvs":     append([]string{"ip_vs_rr"}, filterModules...),
	"nftables": filterModules,
}

// Options say what guest to start.
type Options struct {
	// Engine is ipvs or nftables.
	Engine string
	// Network is the guest's eth0, or nil for an eth0 without a wire.
	Network *microvm.Tap
	// RepairEvery is how often the agent repairs by itself; a minute if 0.
	RepairEvery time.Duration
}

// Guest is a guest that runs.
type Guest struct {
	vm      *microvm.VM
	control *control
	dir     string
}

// Start builds the agent and the guest's init, and boots. The caller calls Stop.
func Start(ctx context.Context, options Options) (*Guest, error) {
	dir, err := os.MkdirTemp("", "bh-guest-")
	if err != nil {
		return nil, err
	}
	g := &Guest{dir: dir}
	if err := g.start(ctx, options); err != nil {
		g.Stop()
		return nil, fmt.Errorf("starting a guest: %w", err)
	}
	return g, nil
}

func (g *Guest) start(ctx context.Context, options Options) error {
	modules, known := engineModules[options.Engine]
	if !known {
		return fmt.Errorf("no guest is known for engine %q", options.Engine)
	}
	const module = "github.com/bulkhead-dev/bulkhead/cri-ext/"
	agent, err := microvm.Build(ctx, g.dir, module+"cri-ext-agent")
	if err != nil {
		return err
	}
	init, err := microvm.Build(ctx, g.dir, module+"guest/guesttest/init")
	if err != nil {
		return err
	}
	args := []string{"--listen=serial:/dev/virtio-ports/" + AgentPort, "--engine=" + options.Engine}
	if options.RepairEvery > 0 {
		args = append(args, "--repair-every="+options.RepairEvery.String())
	}
	if options.Network == nil {
		modules = append([]string{"dummy"}, modules...)
	}
	g.vm, err = microvm.Start(ctx, microvm.Config{
		Init: init, Args: args, Files: map[string]string{"/cri-ext-agent": agent}, Modules: modules,
		Ports: []string{AgentPort, ControlPort}, Network: options.Network, Memory: 512,
	})
	if err != nil {
		return err
	}
	if err := g.vm.WaitConsole(ctx, "guest is ready"); err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", g.vm.Port(ControlPort))
	if err != nil {
		return err
	}
	g.control = &control{conn: conn, replies: bufio.NewReader(conn)}
	return nil
}

// Stop ends the guest and removes its files.
func (g *Guest) Stop() {
	if g.control != nil {
		g.control.conn.Close()
	}
	if g.vm != nil {
		g.vm.Stop()
	}
	_ = os.RemoveAll(g.dir)
}

// Console is what the guest has written on its console.
func (g *Guest) Console() string { return g.vm.Console() }

// WaitConsole waits until the text is on the guest's console.
func (g *Guest) WaitConsole(ctx context.Context, text string) error {
	return g.vm.WaitConsole(ctx, text)
}

// Socket is the host's end of the agent's port.
func (g *Guest) Socket() transport.Socket {
	return transport.Socket{Path: g.vm.Port(AgentPort), PID: int32(g.vm.PID())}
}

// Channel returns cri-ext's channel to the agent. One at a time is of use.
func (g *Guest) Channel(recipient ruleset.Recipient) (*guest.Client, error) {
	var registry transport.Registry
	dialer, err := registry.Serial(recipient.Sandbox, g.Socket())
	if err != nil {
		return nil, err
	}
	return guest.NewClient(recipient, dialer, guest.Limits{}), nil
}

// Dial has the guest dial an address a number of times and returns what answered.
func (g *Guest) Dial(ctx context.Context, network string, times int, addresses ...string) ([]string, error) {
	reply, err := g.control.ask(ctx, Request{Do: "dial", Network: network, Addresses: addresses, Times: times})
	return reply.Answers, err
}

// Drift takes all rules out of the guest's kernel behind the agent's back.
func (g *Guest) Drift(ctx context.Context) error {
	_, err := g.control.ask(ctx, Request{Do: "drift"})
	return err
}

// RestartAgent kills the agent and starts it again.
func (g *Guest) RestartAgent(ctx context.Context) error {
	_, err := g.control.ask(ctx, Request{Do: "restart"})
	return err
}

// AgentMemory is the agent's resident memory in bytes.
func (g *Guest) AgentMemory(ctx context.Context) (int64, error) {
	reply, err := g.control.ask(ctx, Request{Do: "memory"})
	return int64(reply.Memory) << 10, err
}

// StartGuest starts a guest whose kernel has the engine, for a benchmark: rules that
// are granted to Recipient can be sent on the channel. memory tells the agent's
// resident memory in bytes.
func StartGuest(ctx context.Context, engine string) (rules channel.Channel, memory func(context.Context) (int64, error), cleanup func(), err error) {
	g, err := Start(ctx, Options{Engine: engine})
	if err != nil {
		return nil, nil, nil, err
	}
	client, err := g.Channel(Recipient)
	if err == nil {
		var hello channel.Hello
		if hello, err = client.Hello(ctx); err == nil && !carried(hello, engine) {
			err = fmt.Errorf("the guest does not have %s: %+v", engine, hello.Backends)
		}
	}
	if err != nil {
		err = fmt.Errorf("%w; the guest's console:\n%s", err, g.Console())
		g.Stop()
		return nil, nil, nil, err
	}
	return client, g.AgentMemory, func() { client.Close(); g.Stop() }, nil
}

// carried tells whether the engine carries IPv4.
func carried(hello channel.Hello, engine string) bool {
	for _, backend := range hello.Backends {
		if backend.Family == "IPv4" {
			return backend.Engine == engine
		}
	}
	return false
}
