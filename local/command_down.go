package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/bulkhead-dev/bulkhead/local/host"
	"github.com/bulkhead-dev/bulkhead/local/progress"
)

func newDownCommand(find finder) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the embedded super cluster and leave nothing behind (root)",
		Long: `Down ends every process of the embedded super cluster and removes its mounts,
control groups, network and files. It works on whatever is there, also twice and
after an up that failed half way. bin/ stays.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := find()
			if err != nil {
				return err
			}
			if err := host.Supported(); err != nil {
				return err
			}
			if abandoned, err := host.Abandoned(); err != nil {
				return err
			} else if !abandoned {
				if err := host.CheckOwner(l.Root); err != nil {
					return err
				}
			}
			lock, err := lockTree(l)
			if err != nil {
				return err
			}
			defer lock.Close()
			return down(cmd.Context(), newTeardown(l), cmd.OutOrStdout())
		},
	}
}

func down(ctx context.Context, t *teardown, out io.Writer) error {
	phases := []phase{
		{"kubelets and proxies", t.stopNodePrograms},
		{"containers", t.killContainers},
		{"containerd", t.stopContainerd},
		{"control plane", t.stopControlPlane},
		{"remaining processes", t.killRest},
		{"mounts", t.removeMounts},
		{"network", t.removeNetwork},
		{"control groups", t.removeCgroups},
		{"kernel settings", t.restoreSysctls},
		{"files", t.removeFiles},
		{"verification", t.verify},
	}
	reporter := progress.New(out, len(phases))
	for _, p := range phases {
		if err := reporter.Phase(ctx, p.name, p.run); err != nil {
			return shownError{err}
		}
	}
	return nil
}
