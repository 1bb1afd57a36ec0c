// Command cri-ext-agent runs in a guest, a sandbox with a kernel of its own, and puts
// its tenant's Services into that kernel as cri-ext on the host tells it. It speaks to
// nobody else and begins no talk. Package guest describes the protocol.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/guest"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// DefaultPort is the vsock port that the agent listens on, by no convention but ours.
const DefaultPort = 10240

// memoryTarget is what the garbage collector aims at, in bytes: a guest is small, and
// a set of ten thousand Services still fits.
const memoryTarget = 24 << 20

// options are the program's settings, one flag each.
type options struct {
	listen  string
	engines string
	repair  time.Duration
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.StringVar(&o.listen, "listen", fmt.Sprintf("vsock:%d", DefaultPort), "where the host comes from: vsock:PORT, or serial:PATH with the path of a virtio-serial port such as /dev/virtio-ports/NAME")
	flags.StringVar(&o.engines, "engine", "ipvs,nftables,iptables", "engines that may be used, the preferred one first; the first that this kernel has carries an IP family")
	flags.DurationVar(&o.repair, "repair-every", guest.RepairEvery, "how often the kernel is compared with what the host has sent, and set right")
}

// listener is where the host comes from.
type listener struct {
	port   uint32 // of vsock
	serial string // path of a virtio-serial port; empty for vsock
}

func (o *options) parse() (listener, []string, error) {
	if o.repair <= 0 {
		return listener{}, nil, fmt.Errorf("--repair-every %v: want more than 0", o.repair)
	}
	engines := strings.Split(o.engines, ",")
	for i, engine := range engines {
		if !slices.Contains([]string{"ipvs", "nftables", "iptables"}, engine) || slices.Contains(engines[:i], engine) {
			return listener{}, nil, fmt.Errorf("--engine %q: want a list of ipvs, nftables, iptables, each once at most", o.engines)
		}
	}
	kind, rest, _ := strings.Cut(o.listen, ":")
	switch kind {
	case "vsock":
		if port, err := strconv.ParseUint(rest, 10, 32); err == nil && port > 0 && port < 1<<32-1 {
			return listener{port: uint32(port)}, engines, nil
		}
	case "serial":
		if strings.HasPrefix(rest, "/") {
			return listener{serial: rest}, engines, nil
		}
	}
	return listener{}, nil, fmt.Errorf("--listen %q: want vsock:PORT or serial:PATH with an absolute path", o.listen)
}

func main() {
	var o options
	o.bind(flag.CommandLine)
	version := flag.Bool("version", false, "print the version and end")
	flag.Parse()
	if *version {
		fmt.Println(buildVersion())
		return
	}
	debug.SetMemoryLimit(memoryTarget)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(ctx, o, log); err != nil && !errors.Is(err, context.Canceled) {
		log.Error("cri-ext-agent stops", "error", err)
		stop()
		os.Exit(1)
	}
}

// run serves until ctx ends. The rules stay in the kernel: a new agent takes them over.
func run(ctx context.Context, o options, log *slog.Logger) error {
	from, engines, err := o.parse()
	if err != nil {
		return err
	}
	open := func(ctx context.Context, recipient ruleset.Recipient) (guest.Engine, error) {
		// Sandboxes of one tenant shall not all choose the same endpoint.
		seed := fnv.New64a()
		_, _ = seed.Write([]byte(recipient.Sandbox))
		return kernel.Open(ctx, -1, kernel.Options{Engines: engines, Seed: seed.Sum64()})
	}
	server := guest.NewServer(open, buildVersion(), log)
	go server.PatrolDrift(ctx, o.repair)
	if from.serial != "" {
		return serveSerial(ctx, server, from.serial, log)
	}
	return serveVsock(ctx, server, from.port, log)
}

func serveSerial(ctx context.Context, server *guest.Server, path string, log *slog.Logger) error {
	port, err := transport.OpenPort(path)
	if err != nil {
		return err
	}
	defer port.Close()
	log.Info("waiting for the host", "port", path)
	for {
		if err := transport.WaitHost(ctx, port); err != nil {
			return err
		}
		if err := server.Serve(ctx, port, true); err != nil && ctx.Err() == nil {
			log.Error("talk with the host ended", "error", err)
		}
	}
}

// serveVsock serves one host at a time. One that comes while another is there takes
// its place: that is the same host, after a restart.
func serveVsock(ctx context.Context, server *guest.Server, port uint32, log *slog.Logger) error {
	listener, err := transport.ListenVsock(port)
	if err != nil {
		return err
	}
	defer listener.Close()
	log.Info("waiting for the host", "port", port)
	end, done := func() {}, make(chan struct{})
	close(done)
	for {
		conn, err := listener.Accept(ctx)
		var stranger *transport.StrangerError
		if errors.As(err, &stranger) {
			log.Warn("not the host", "error", err)
			continue
		}
		end()
		<-done
		if err != nil {
			return err
		}
		var serving context.Context
		serving, end = context.WithCancel(ctx)
		finished := make(chan struct{})
		done = finished
		go func() {
			defer close(finished)
			defer conn.Close()
			if err := server.Serve(serving, conn, false); err != nil && serving.Err() == nil {
				log.Error("talk with the host ended", "error", err)
			}
		}()
	}
}

// buildVersion is the version that this program was built from.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			version += " " + setting.Value[:min(12, len(setting.Value))]
		}
	}
	return version
}
