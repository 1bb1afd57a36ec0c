// Command kubectl-vc is a kubectl plugin that makes, shows and removes virtual
// clusters and hands out their kubeconfigs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	// Users log in to the super cluster in whatever way their kubeconfig says.
	_ "k8s.io/client-go/plugin/pkg/client/auth"

	"github.com/bulkhead-dev/bulkhead/kubectl-vc/command"
)

// Exit codes.
const (
	exitFailed      = 1
	exitInterrupted = 130 // 128 + SIGINT, as shells have it
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command.New(genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	root.SetArgs(command.Arguments(os.Args))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	if errors.Is(err, command.ErrInterrupted) {
		return exitInterrupted
	}
	return exitFailed
}
