package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/local/addon"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/node"
	"github.com/bulkhead-dev/bulkhead/local/process"
	"github.com/bulkhead-dev/bulkhead/local/superplane"
)

// statusTimeout bounds the questions to a cluster that may be dead.
const statusTimeout = 10 * time.Second

func newStatusCommand(find finder) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what of the embedded super cluster runs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := find()
			if err != nil {
				return err
			}
			return status(cmd.Context(), l, cmd.OutOrStdout())
		},
	}
}

// status prints the state of services, nodes and addons. It is an error if
// something does not run as it should.
func status(ctx context.Context, l layout.Layout, out io.Writer) error {
	settings, exists, err := layout.LoadSettings(l.SettingsFile())
	if err != nil {
		return err
	}
	if !exists {
		return fmt.Errorf("there is no embedded super cluster in %s: `make up` makes one", l.Root)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	sound := printServices(table, l, settings, time.Now())
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	clusterSound, err := printCluster(ctx, table, l)
	if err != nil {
		fmt.Fprintf(table, "\ncluster\t%v\n", err)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if !sound || !clusterSound {
		return errors.New("not everything runs: `make up` brings it back")
	}
	return nil
}

func printServices(w io.Writer, l layout.Layout, s layout.Settings, now time.Time) (sound bool) {
	names := superplane.Services()
	for _, n := range s.NodeList() {
		names = append(names, node.ServiceNames(n.Name)...)
	}
	sound = true
	fmt.Fprintln(w, "SERVICE\tSTATE\tPID\tRESTARTS\tUP\tLOG")
	for _, name := range names {
		state, log := manager(l).State(name)
		word := serviceState(state)
		if word != "running" {
			sound = false
		}
		pid, since := "-", "-"
		if state.Child.Alive() {
			pid, since = fmt.Sprint(state.Child.PID), now.Sub(state.Started).Round(time.Second).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", name, word, pid, state.Restarts, since, log)
	}
	return sound
}

func serviceState(s process.State) string {
	switch supervised, running := s.Supervisor.Alive(), s.Child.Alive(); {
	case supervised && running:
		return "running"
	case supervised:
		return "restarting (" + s.LastExit + ")"
	case running:
		return "unsupervised"
	}
	return "dead"
}

func printCluster(ctx context.Context, w io.Writer, l layout.Layout) (sound bool, err error) {
	config, err := superConfig(l)
	if err != nil {
		return false, err
	}
	c, err := client.New(config, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		return false, err
	}
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes); err != nil {
		return false, fmt.Errorf("listing nodes: %w", err)
	}
	sound = true
	fmt.Fprintln(w, "\nNODE\tSTATE")
	for _, n := range nodes.Items {
		word := "NotReady"
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				word = "Ready"
			}
		}
		sound = sound && word == "Ready"
		fmt.Fprintf(w, "%s\t%s\n", n.Name, word)
	}
	fmt.Fprintln(w, "\nADDON\tSTATE")
	for _, key := range addon.Deployments {
		var d appsv1.Deployment
		word := "available"
		if err := c.Get(ctx, key, &d); err != nil {
			word = err.Error()
		} else if !addon.Available(&d) {
			word = fmt.Sprintf("%d pods available", d.Status.AvailableReplicas)
		}
		sound = sound && word == "available"
		fmt.Fprintf(w, "%s\t%s\n", key.Name, word)
	}
	return sound, nil
}
