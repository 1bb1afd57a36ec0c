package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/local/addon"
	"github.com/bulkhead-dev/bulkhead/local/artifact"
	"github.com/bulkhead-dev/bulkhead/local/host"
	"github.com/bulkhead-dev/bulkhead/local/image"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/network"
	"github.com/bulkhead-dev/bulkhead/local/node"
	"github.com/bulkhead-dev/bulkhead/local/platform"
	"github.com/bulkhead-dev/bulkhead/local/process"
	"github.com/bulkhead-dev/bulkhead/local/progress"
	"github.com/bulkhead-dev/bulkhead/local/superplane"
)

func newUpCommand(find finder) *cobra.Command {
	withPlatform := true
	command := &cobra.Command{
		Use:   "up",
		Short: "Bring the embedded super cluster up, or back up (root)",
		Long: `Up builds what is missing and starts the super cluster, the platform and the demo
tenant. It can be called at any time: what runs as it should is left alone, what
is missing, changed or dead is brought (back) up with its data.

These environment variables move the cluster's networks, once, before the first up:
  ` + layout.EnvNodeCIDR + `     (default ` + layout.DefaultSettings().NodeCIDR.String() + `)
  ` + layout.EnvServiceCIDR + `  (default ` + layout.DefaultSettings().ServiceCIDR.String() + `)
  ` + layout.EnvPodCIDR + `      (default ` + layout.DefaultSettings().PodCIDR.String() + `)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := find()
			if err != nil {
				return err
			}
			return up(cmd.Context(), l, withPlatform, cmd.OutOrStdout())
		},
	}
	command.Flags().BoolVar(&withPlatform, "platform", true, "also install the platform and make the demo tenant")
	return command
}

// upRun is what the phases of one up hand on to each other.
type upRun struct {
	layout      layout.Layout
	settings    layout.Settings
	manager     process.Manager
	sysctls     host.Sysctls
	programs    artifact.Programs
	images      []image.Ref
	authorities *superplane.Authorities
	client      client.Client
}

type phase struct {
	name string
	run  func(ctx context.Context, step func(string, ...any)) error
}

func up(ctx context.Context, l layout.Layout, withPlatform bool, out io.Writer) error {
	started := time.Now()
	lock, err := lockTree(l)
	if err != nil {
		return err
	}
	defer lock.Close()
	r := &upRun{layout: l, manager: manager(l), sysctls: sysctls()}
	phases := []phase{
		{"preflight", r.preflight},
		{"packages", func(ctx context.Context, _ func(string, ...any)) error { return installDebs(ctx, l) }},
		{"programs", r.build},
		{"images", r.assemble},
		{"certificates", r.certify},
		{"network", r.network},
		{"control plane", r.controlPlane},
		{"nodes", r.nodes},
		{"addons", r.addons},
	}
	if withPlatform {
		phases = append(phases,
			phase{"platform", func(ctx context.Context, step func(string, ...any)) error {
				return platform.Install(ctx, l, r.settings, r.images, step)
			}},
			phase{"demo tenant", func(ctx context.Context, step func(string, ...any)) error {
				return platform.Demo(ctx, l, step)
			}})
	}
	reporter := progress.New(out, len(phases))
	for _, p := range phases {
		if err := reporter.Phase(ctx, p.name, p.run); err != nil {
			return shownError{err}
		}
	}
	fmt.Fprintf(out, "\nThe super cluster is up (%s).\n\n  export KUBECONFIG=%s\n", time.Since(started).Round(100*time.Millisecond), l.SuperKubeconfig())
	if withPlatform {
		fmt.Fprintf(out, "  export KUBECONFIG=%s   # as the tenant \"%s\"\n", platform.DemoKubeconfig(l), platform.DemoName)
	}
	fmt.Fprintf(out, "  %s get nodes\n", filepath.Join(l.Bin(), "kubectl"))
	return nil
}

func manager(l layout.Layout) process.Manager {
	return process.Manager{Dir: l.Services(), Program: l.LocalProgram()}
}

func sysctls() host.Sysctls { return host.Sysctls{File: layout.SysctlFile(), Dir: "/proc/sys"} }

func (r *upRun) preflight(ctx context.Context, _ func(string, ...any)) error {
	if err := host.Supported(); err != nil {
		return err
	}
	if err := host.CheckOwner(r.layout.Root); err != nil {
		return err
	}
	settings, err := chooseSettings(r.layout, os.Getenv)
	if err != nil {
		return err
	}
	r.settings = settings
	clash, err := network.Clash(settings)
	if err != nil {
		return err
	}
	if clash != "" {
		return errors.New(clash)
	}
	if err := host.Check(r.layout, portsNeeded(settings, r.manager)); err != nil {
		return err
	}
	if err := host.Claim(r.layout.Root); err != nil {
		return err
	}
	if err := os.MkdirAll(r.layout.State(), 0o755); err != nil {
		return err
	}
	data, err := settings.Encode()
	if err != nil {
		return err
	}
	if err := process.WriteFile(r.layout.SettingsFile(), data, 0o644); err != nil {
		return err
	}
	return host.Prepare(r.sysctls)
}

// chooseSettings returns the settings of the cluster that exists, or those that
// the environment asks for.
func chooseSettings(l layout.Layout, getenv func(string) string) (layout.Settings, error) {
	wanted, err := layout.FromEnvironment(getenv)
	if err != nil {
		return layout.Settings{}, err
	}
	have, exists, err := layout.LoadSettings(l.SettingsFile())
	if err != nil {
		return layout.Settings{}, err
	}
	if !exists {
		return wanted, nil
	}
	for env, differs := range map[string]bool{
		layout.EnvNodeCIDR:    have.NodeCIDR != wanted.NodeCIDR,
		layout.EnvServiceCIDR: have.ServiceCIDR != wanted.ServiceCIDR,
		layout.EnvPodCIDR:     have.PodCIDR != wanted.PodCIDR,
	} {
		if getenv(env) != "" && differs {
			return layout.Settings{}, fmt.Errorf("%s differs from what the cluster was made with: run `local down` before changing it", env)
		}
	}
	return have, nil
}

// portsNeeded lists the ports that a service which does not run yet will listen on.
func portsNeeded(s layout.Settings, m process.Manager) []host.Port {
	var ports []host.Port
	for _, p := range superplane.Ports(s) {
		if state, _ := m.State(p.Service); !state.Child.Alive() {
			ports = append(ports, host.Port{Address: p.Address, For: p.Service})
		}
	}
	return ports
}

func (r *upRun) build(ctx context.Context, step func(string, ...any)) error {
	if err := installSelf(r.layout); err != nil {
		return err
	}
	programs, err := artifact.Build(ctx, r.layout.Root, r.layout.Logs(), step)
	r.programs = programs
	return err
}

// installSelf makes sure that bin/local is this very program: `go run` deletes the
// one that runs now as soon as it ends, and supervisors live longer.
func installSelf(l layout.Layout) error {
	target := l.LocalProgram()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	mine, err := self.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(target); err == nil && os.SameFile(mine, there) {
		return nil
	}
	data, err := io.ReadAll(self)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.Bin(), 0o755); err != nil {
		return err
	}
	return process.WriteFile(target, data, 0o755)
}

func (r *upRun) assemble(ctx context.Context, _ func(string, ...any)) error {
	images, err := image.Assemble(ctx, r.programs, r.layout.Images())
	r.images = images
	return err
}

func (r *upRun) certify(context.Context, func(string, ...any)) error {
	authorities, err := superplane.Certify(r.layout, r.settings)
	r.authorities = authorities
	return err
}

func (r *upRun) network(ctx context.Context, _ func(string, ...any)) error {
	return network.Up(ctx, r.settings, r.sysctls)
}

func (r *upRun) controlPlane(ctx context.Context, step func(string, ...any)) error {
	if err := superplane.StartRegistry(ctx, r.layout, r.settings, r.authorities, r.manager); err != nil {
		return err
	}
	if err := superplane.Up(ctx, r.layout, r.settings, r.authorities, r.manager, step); err != nil {
		return err
	}
	config, err := superConfig(r.layout)
	if err != nil {
		return err
	}
	r.client, err = client.New(config, client.Options{Scheme: scheme.Scheme})
	return err
}

// superConfig is the administrator's access to the super cluster.
func superConfig(l layout.Layout) (*rest.Config, error) {
	data, err := os.ReadFile(l.SuperKubeconfig())
	if err != nil {
		return nil, err
	}
	config, err := kubeconfig.RESTConfig(data)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 200, 400
	config.Timeout = 30 * time.Second
	return config, nil
}

func (r *upRun) nodes(ctx context.Context, step func(string, ...any)) error {
	nodes, err := node.All(r.layout, r.settings, r.programs.CNI)
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		group.Go(func() error { return n.Up(groupCtx, r.authorities, r.manager) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return node.AwaitReady(ctx, r.client, r.manager, r.settings.NodeList(), step)
}

func (r *upRun) addons(ctx context.Context, step func(string, ...any)) error {
	if err := addon.Apply(ctx, r.client, r.settings, node.HasUpstreamResolver()); err != nil {
		return err
	}
	if err := addon.Await(ctx, r.client, step); err != nil {
		return err
	}
	step("cluster DNS")
	return addon.AwaitDNS(ctx, r.settings)
}
