package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/bulkhead-dev/bulkhead/cri-ext/admin"
	"github.com/bulkhead-dev/bulkhead/cri-ext/driver"
	"github.com/bulkhead-dev/bulkhead/internal/feed"
)

// Values of --gate.
const (
	gateStart = "start"
	gateOff   = "off"
)

// defaultListen is in a directory that is not the feed's: tenant-proxy has that one
// mounted, and must not reach the runtime.
const defaultListen = "/run/cri-ext-host/cri.sock"

// options are the settings of serve, one flag each.
type options struct {
	listen         string
	runtime        string
	feed           string
	admin          string
	gate           string
	gateTimeout    time.Duration
	repairInterval time.Duration
	handlers       driver.Rules
	engine         string
	agentPort      int
}

// guestPort is where cri-ext-agent listens by default.
const guestPort = 10240

func (o *options) bind(flags *pflag.FlagSet) {
	flags.StringVar(&o.listen, "listen", defaultListen, "socket for kubelet's --container-runtime-endpoint; not used if systemd hands one over")
	flags.StringVar(&o.runtime, "runtime", "/run/containerd/containerd.sock", "socket of the container runtime")
	flags.StringVar(&o.feed, "feed", feed.DefaultSocket, "socket for tenant-proxy; its directory should hold nothing else")
	flags.StringVar(&o.admin, "admin", admin.DefaultSocket, "socket for the other verbs of this program")
	flags.StringVar(&o.gate, "gate", gateStart, "start: containers of virtual clusters wait for their rules; off: they do not, and rules come as soon as they can")
	flags.DurationVar(&o.gateTimeout, "gate-timeout", 30*time.Second, "how long a container waits before its start fails")
	flags.DurationVar(&o.repairInterval, "repair-every", time.Minute, "how often the rules in a sandbox's kernel are compared with what they should be")
	flags.Var(&o.handlers, "runtime-handler", "HANDLER=WAY into the sandboxes of a runtime handler, once for each: netns, hybrid-vsock:PATH, virtio-serial:PATH, kata-shim:PATH, with {id} in the PATH of the socket for the sandbox's ID; handlers that are not named have netns")
	flags.StringVar(&o.engine, "engine", "", "engines that may carry rules in network namespaces, the preferred one first, of ipvs, nftables and iptables; by default all, in that order")
	flags.IntVar(&o.agentPort, "agent-port", guestPort, "vsock port of cri-ext-agent in guests")
}

// check also brings socket addresses into the form of plain paths.
func (o *options) check() error {
	seen := map[string]string{}
	for _, socket := range []struct {
		flag string
		path *string
	}{{"listen", &o.listen}, {"runtime", &o.runtime}, {"feed", &o.feed}, {"admin", &o.admin}} {
		*socket.path = strings.TrimPrefix(*socket.path, "unix://")
		if !filepath.IsAbs(*socket.path) {
			return fmt.Errorf("--%s %q must be the absolute path of a socket, with or without unix:// before it", socket.flag, *socket.path)
		}
		if other, taken := seen[filepath.Clean(*socket.path)]; taken {
			return fmt.Errorf("--%s and --%s are the same socket", other, socket.flag)
		}
		seen[filepath.Clean(*socket.path)] = socket.flag
	}
	if o.gate != gateStart && o.gate != gateOff {
		return fmt.Errorf("--gate %q must be %s or %s", o.gate, gateStart, gateOff)
	}
	if o.gateTimeout <= 0 || o.repairInterval <= 0 {
		return fmt.Errorf("--gate-timeout %s and --repair-every %s must be more than 0", o.gateTimeout, o.repairInterval)
	}
	if o.agentPort < 1 || o.agentPort > 1<<31-1 {
		return fmt.Errorf("--agent-port %d is no port", o.agentPort)
	}
	for _, engine := range o.engines() {
		if engine != "ipvs" && engine != "nftables" && engine != "iptables" {
			return fmt.Errorf("--engine %q: there is no engine %q, but ipvs, nftables and iptables", o.engine, engine)
		}
	}
	return nil
}

func (o *options) engines() []string {
	if o.engine == "" {
		return nil
	}
	return strings.Split(o.engine, ",")
}
