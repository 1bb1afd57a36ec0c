package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/bulkhead-dev/bulkhead/local/artifact"
	"github.com/bulkhead-dev/bulkhead/local/deb"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// debs are the Debian packages that building and running take. kube-proxy and the
// firewall need nft. busybox-static is not among them: local/artifact unpacks it
// without installing it, since it would replace the machine's own busybox.
var debs = []string{"nftables", "iproute2", "util-linux", "gcc", "libc6-dev", "libseccomp-dev", "pkg-config"}

func newBuildCommand(find finder) *cobra.Command {
	withTools := false
	command := &cobra.Command{
		Use:   "build",
		Short: "Build all programs into bin/",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := find()
			if err != nil {
				return err
			}
			r := progress.New(os.Stdout, 2)
			if err := r.Phase(cmd.Context(), "packages", func(ctx context.Context, _ func(string, ...any)) error {
				return installDebs(ctx, l)
			}); err != nil {
				return shownError{err}
			}
			if err := r.Phase(cmd.Context(), "programs", func(ctx context.Context, step func(string, ...any)) error {
				if _, err := artifact.Build(ctx, l.Root, l.Logs(), step); err != nil || !withTools {
					return err
				}
				_, err := artifact.BuildOnly(ctx, l.Root, l.Logs(), step, artifact.Tools()...)
				return err
			}); err != nil {
				return shownError{err}
			}
			return nil
		},
	}
	command.Flags().BoolVar(&withTools, "tools", false, "also build what checks and generates code: golangci-lint, controller-gen")
	return command
}

func installDebs(ctx context.Context, l layout.Layout) error {
	if err := os.MkdirAll(l.Logs(), 0o755); err != nil {
		return err
	}
	return deb.Install(ctx, l.Logs()+"/packages.log", debs...)
}
