package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulkhead-dev/bulkhead/cri-ext/admin"
	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
)

// verbs is the table of those that ask a running cri-ext, in the order of help.
var verbs = []func() *cobra.Command{newStatus, newPods, newRules, newDiff, newTrace, newResync, newProbe, newMetrics}

// askTimeout is for one answer.
const askTimeout = time.Minute

// Values of --output.
const (
	asTable = "table"
	asJSON  = "json"
)

// question is one verb that asks.
type question struct {
	command *cobra.Command
	socket  string
	output  string
}

// newQuestion makes a verb. answer asks, and returns what to print: as JSON, or by
// its function as a table.
func newQuestion(use, short string, args cobra.PositionalArgs, answer func(ctx context.Context, c *admin.Client, args []string) (value any, table func(io.Writer), err error)) *question {
	q := &question{}
	q.command = &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		if q.output != asTable && q.output != asJSON {
			return fmt.Errorf("--output %q must be %s or %s", q.output, asTable, asJSON)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
		defer cancel()
		value, table, err := answer(ctx, admin.NewClient(q.socket), args)
		if err != nil {
			return err
		}
		if q.output == asJSON {
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(value)
		}
		table(cmd.OutOrStdout())
		return nil
	}}
	flags := q.command.Flags()
	flags.StringVar(&q.socket, "admin", admin.DefaultSocket, "socket of the running cri-ext")
	flags.StringVarP(&q.output, "output", "o", asTable, "table or json")
	return q
}

func newStatus() *cobra.Command {
	return newQuestion("status", "How cri-ext, the runtime and tenant-proxy are", cobra.NoArgs,
		func(ctx context.Context, c *admin.Client, _ []string) (any, func(io.Writer), error) {
			var status admin.Status
			err := c.Get(ctx, "/status", nil, &status)
			return status, func(w io.Writer) { printStatus(w, status) }, err
		}).command
}

func newPods() *cobra.Command {
	return newQuestion("pods", "The sandboxes of virtual clusters and what they hold", cobra.NoArgs,
		func(ctx context.Context, c *admin.Client, _ []string) (any, func(io.Writer), error) {
			var pods []sandbox.View
			err := c.Get(ctx, "/pods", nil, &pods)
			return pods, func(w io.Writer) { printPods(w, pods) }, err
		}).command
}

func newRules() *cobra.Command {
	var live bool
	q := newQuestion("rules POD", "The rules that a sandbox should hold, or does", cobra.ExactArgs(1),
		func(ctx context.Context, c *admin.Client, args []string) (any, func(io.Writer), error) {
			parameters := url.Values{"pod": args}
			if live {
				parameters.Set("live", "1")
			}
			var rules admin.Rules
			err := c.Get(ctx, "/rules", parameters, &rules)
			return rules, func(w io.Writer) { printRules(w, rules) }, err
		})
	flags := q.command.Flags()
	flags.BoolVar(&live, "live", false, "read them from the sandbox's kernel")
	return q.command
}

func newDiff() *cobra.Command {
	return newQuestion("diff POD", "What in a sandbox's kernel is other than it should be", cobra.ExactArgs(1),
		func(ctx context.Context, c *admin.Client, args []string) (any, func(io.Writer), error) {
			var diff admin.Diff
			err := c.Get(ctx, "/diff", url.Values{"pod": args}, &diff)
			return diff, func(w io.Writer) { printDiff(w, diff) }, err
		}).command
}

func newTrace() *cobra.Command {
	return newQuestion("trace POD ADDRESS:PORT[/PROTOCOL]", "What becomes of a connection that a container makes", cobra.ExactArgs(2),
		func(ctx context.Context, c *admin.Client, args []string) (any, func(io.Writer), error) {
			var trace admin.Trace
			err := c.Get(ctx, "/trace", url.Values{"pod": args[:1], "frontend": args[1:]}, &trace)
			return trace, func(w io.Writer) { printTrace(w, trace) }, err
		}).command
}

func newResync() *cobra.Command {
	var all bool
	q := newQuestion("resync POD | --all", "Compare a sandbox's kernel with its rules now, and set it right", cobra.MaximumNArgs(1),
		func(ctx context.Context, c *admin.Client, args []string) (any, func(io.Writer), error) {
			parameters := url.Values{"pod": args}
			switch {
			case all == (len(args) > 0):
				return nil, nil, errors.New("name a pod, or all of them with --all")
			case all:
				parameters.Set("all", "1")
			}
			var done []admin.Resync
			if err := c.Post(ctx, "/resync", parameters, &done); err != nil {
				return nil, nil, err
			}
			return done, func(w io.Writer) { printResync(w, done) }, nil
		})
	flags := q.command.Flags()
	flags.BoolVar(&all, "all", false, "all sandboxes of virtual clusters")
	return q.command
}

func newProbe() *cobra.Command {
	return newQuestion("probe POD", "What a sandbox's kernel can do, and what it says it holds", cobra.ExactArgs(1),
		func(ctx context.Context, c *admin.Client, args []string) (any, func(io.Writer), error) {
			var probe admin.Probe
			err := c.Get(ctx, "/probe", url.Values{"pod": args}, &probe)
			return probe, func(w io.Writer) { printProbe(w, probe) }, err
		}).command
}

func newMetrics() *cobra.Command {
	return newQuestion("metrics", "Metrics in Prometheus' text format", cobra.NoArgs,
		func(ctx context.Context, c *admin.Client, _ []string) (any, func(io.Writer), error) {
			var text []byte
			err := c.Get(ctx, "/metrics", nil, &text)
			return string(text), func(w io.Writer) { fmt.Fprintf(w, "%s", text) }, err
		}).command
}
