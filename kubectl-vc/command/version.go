package command

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion(e *environment) *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Show the version of this plugin",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				info = &debug.BuildInfo{}
			}
			fmt.Fprintf(e.streams.Out, "kubectl-vc %s %s/%s\n", versionOf(info), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}

// versionOf is the module's version and the revision it was built from, as far as
// the go tool recorded them.
func versionOf(info *debug.BuildInfo) string {
	version := info.Main.Version
	if version == "" {
		version = "(devel)"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return version + " " + setting.Value
		}
	}
	return version
}
