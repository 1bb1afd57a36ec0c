// Package command is the command line of kubectl-vc: one file for each verb.
package command

import (
	"context"
	"errors"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
)

// completerName is what kubectl calls, with the words typed so far, to complete
// `kubectl vc ...`: a link to this program under that name.
const completerName = "kubectl_complete-vc"

// ErrInterrupted is in the error of a command that Ctrl-C ended.
var ErrInterrupted = errors.New("interrupted")

// verbs is the table of all verbs, in the order that help shows them.
var verbs = []func(*environment) *cobra.Command{
	newCreate,
	newList,
	newDescribe,
	newExplain,
	newKubeconfig,
	newDelete,
	newVersion,
}

// environment is what all verbs share: where they read and write, and which super
// cluster they talk to.
type environment struct {
	streams genericiooptions.IOStreams
	flags   *genericclioptions.ConfigFlags
	// dialPod opens a connection to a port of a pod in the super cluster.
	dialPod func(ctx context.Context, config *rest.Config, namespace, pod string, port int) (net.Conn, error)
}

// New makes the command line.
func New(streams genericiooptions.IOStreams) *cobra.Command { return newRoot(newEnvironment(streams)) }

func newEnvironment(streams genericiooptions.IOStreams) *environment {
	return &environment{streams: streams, flags: genericclioptions.NewConfigFlags(true), dialPod: forwardPort}
}

func newRoot(e *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-vc",
		Short: "Make, show and remove virtual clusters",
		Long: "Virtual clusters are Kubernetes clusters of their own for the tenants of one super cluster.\n" +
			"This plugin talks to the super cluster; what it hands out with `kubectl vc kubeconfig` talks to a virtual one.",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl vc"},
		SilenceErrors: true,
		SilenceUsage:  true,
		// cobra's own "completion" verb follows from the verbs below.
	}
	root.SetIn(e.streams.In)
	root.SetOut(e.streams.Out)
	root.SetErr(e.streams.ErrOut)
	e.flags.AddFlags(root.PersistentFlags())
	must(root.RegisterFlagCompletionFunc("namespace", e.completeNamespaces))
	must(root.RegisterFlagCompletionFunc("context", e.completeContexts))
	for _, verb := range verbs {
		root.AddCommand(verb(e))
	}
	return root
}

// Arguments are the command line's arguments for a process's arguments: under the
// name kubectl_complete-vc the program answers kubectl's requests for completion.
func Arguments(args []string) []string {
	if len(args) > 0 && filepath.Base(args[0]) == completerName {
		return append([]string{cobra.ShellCompRequestCmd}, args[1:]...)
	}
	if len(args) == 0 {
		return nil
	}
	return args[1:]
}

// must is for registrations that only a mistake in this package can make fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// oneName is the argument check of verbs that take the name of a virtual cluster.
func oneName(command *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("give the name of one virtual cluster: " + command.UseLine())
	}
	return nil
}

// ended tells how a context that is done ended, for the user: "" if it is not done.
func ended(ctx context.Context) string {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "timed out"
	case ctx.Err() != nil:
		return ErrInterrupted.Error()
	}
	return ""
}
