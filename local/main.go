// Local runs the embedded super cluster: a Kubernetes cluster of two nodes on one
// Linux machine, with the platform and a demo tenant in it. `make up` calls it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/local/layout"
)

func main() {
	// Folders that pods' users must be able to enter are made with the mode asked for.
	unix.Umask(0o022)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		// A failed phase has been explained where it failed.
		var shown shownError
		if !errors.As(err, &shown) {
			fmt.Fprintln(os.Stderr, "error:", err)
		}
		os.Exit(1)
	}
}

// shownError is an error that the user has read already.
type shownError struct{ error }

func (e shownError) Unwrap() error { return e.error }

func newCommand() *cobra.Command {
	var root string
	find := func() (layout.Layout, error) { return layout.Find(root) }
	command := &cobra.Command{
		Use:           "local",
		Short:         "Run the embedded super cluster on this machine",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	command.PersistentFlags().StringVar(&root, "root", ".", "work tree, or any folder in it")
	command.AddCommand(newUpCommand(find), newDownCommand(find), newStatusCommand(find), newBuildCommand(find),
		newSuperviseCommand(), newRegistryCommand())
	return command
}

// finder returns the layout of the work tree that the user means.
type finder func() (layout.Layout, error)
