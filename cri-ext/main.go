// Command cri-ext stands between kubelet and the container runtime on a node. `serve`
// passes kubelet's calls on, puts each virtual cluster's service rules into its
// sandboxes, and lets no container start before they are in. The other verbs ask a
// running one.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newCommand(os.Stdout, os.Stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		os.Exit(1)
	}
}

// newCommand makes the command line.
func newCommand(out, errOut io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "cri-ext",
		Short:         "Service rules for the sandboxes of virtual clusters",
		Long:          "cri-ext stands between kubelet and the container runtime. POD below is a pod of the super cluster\nas namespace/name, its UID, or the beginning of its sandbox's ID.",
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetOut(out)
	root.SetErr(errOut)
	root.AddCommand(newServe())
	for _, verb := range verbs {
		root.AddCommand(verb())
	}
	return root
}
