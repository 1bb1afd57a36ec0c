package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/bulkhead-dev/bulkhead/cri-ext/admin"
	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
)

// table writes lines of cells under each other.
func table(w io.Writer, lines ...[]string) {
	tabs := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer tabs.Flush()
	for _, line := range lines {
		fmt.Fprintln(tabs, printable(strings.Join(line, "\t")))
	}
}

// printable takes out what would change a terminal: texts may be a guest's.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return '?'
		}
		return r
	}, text)
}

func printStatus(w io.Writer, s admin.Status) {
	runtime, feed := "answers", "not connected"
	if s.RuntimeError != "" {
		runtime = s.RuntimeError
	}
	if s.FeedConnected {
		feed = "connected"
		if !s.PodsComplete {
			feed = "connected, has not listed all pods yet"
		}
	}
	gate := "off"
	if s.Gate {
		gate = "containers wait up to " + s.GateTimeout
	}
	lines := [][]string{
		{"Version", s.Version},
		{"Runtime", s.Runtime + ": " + runtime},
		{"tenant-proxy", s.Feed + ": " + feed},
		{"Gate", gate},
		{"Pods known", fmt.Sprint(s.Pods)},
		{"Virtual clusters", fmt.Sprint(s.Tenants)},
		{"Other sandboxes", fmt.Sprint(s.Others)},
	}
	var states []sandbox.State
	for state := range s.Sandboxes {
		states = append(states, state)
	}
	slices.Sort(states)
	for _, state := range states {
		lines = append(lines, []string{"Sandboxes " + string(state), fmt.Sprint(s.Sandboxes[state])})
	}
	table(w, lines...)
}

func printPods(w io.Writer, pods []sandbox.View) {
	lines := [][]string{{"POD", "SANDBOX", "TENANT", "STATE", "GENERATION", "SERVICES", "BACKEND", "REASON"}}
	for _, p := range pods {
		generation := fmt.Sprint(p.Generation)
		if p.Wanted != p.Generation {
			generation = fmt.Sprintf("%d of %d", p.Generation, p.Wanted)
		}
		lines = append(lines, []string{
			p.Namespace + "/" + p.Name, p.Sandbox[:min(13, len(p.Sandbox))], cmp.Or(string(p.Tenant), "-"), string(p.State),
			generation, fmt.Sprint(p.Services), backends(p.Backends), cmp.Or(p.Reason, p.Error),
		})
	}
	table(w, lines...)
}

func backends(all []channel.Backend) string {
	var texts []string
	for _, b := range all {
		texts = append(texts, b.Family+"="+cmp.Or(b.Engine, "none"))
	}
	return cmp.Or(strings.Join(texts, ","), "-")
}

func serviceCells(s *admin.Service) []string {
	if s == nil {
		return []string{"-", "-"}
	}
	var endpoints []string
	for _, e := range s.Endpoints {
		endpoints = append(endpoints, e.String())
	}
	affinity := "-"
	if s.Affinity > 0 {
		affinity = fmt.Sprintf("%ds", s.Affinity)
	}
	return []string{affinity, cmp.Or(strings.Join(endpoints, ","), "none: refused")}
}

func frontend(s *admin.Service) string {
	address := s.Address.String()
	if s.Address.Is6() {
		address = "[" + address + "]"
	}
	return fmt.Sprintf("%s:%d/%s", address, s.Port, strings.ToLower(s.Protocol))
}

func printRules(w io.Writer, rules admin.Rules) {
	if !rules.Live {
		fmt.Fprintf(w, "Generation %d, networks of ClusterIPs %v; the sandbox holds generation %d (%s)\n",
			rules.Generation, rules.Ranges, rules.Pod.Generation, rules.Pod.State)
	}
	lines := [][]string{{"SERVICE", "AFFINITY", "ENDPOINTS"}}
	for i := range rules.Services {
		s := &rules.Services[i]
		lines = append(lines, append([]string{frontend(s)}, serviceCells(s)...))
	}
	table(w, lines...)
}

func printDiff(w io.Writer, diff admin.Diff) {
	if len(diff.Differences) == 0 {
		fmt.Fprintf(w, "No difference: the sandbox holds generation %d.\n", diff.Pod.Generation)
		return
	}
	lines := [][]string{{"SERVICE", "WHAT", "WANTED", "LIVE"}}
	for _, d := range diff.Differences {
		at := d.Wanted
		if at == nil {
			at = d.Live
		}
		lines = append(lines, []string{frontend(at), d.What, strings.Join(serviceCells(d.Wanted), " "), strings.Join(serviceCells(d.Live), " ")})
	}
	table(w, lines...)
}

func printTrace(w io.Writer, trace admin.Trace) {
	fmt.Fprintln(w, printable(fmt.Sprintf("%s from %s/%s: %s", trace.Frontend, trace.Pod.Namespace, trace.Pod.Name, trace.Outcome)))
	fmt.Fprintln(w, printable(trace.Why))
	if trace.Service != nil {
		for _, e := range trace.Service.Endpoints {
			fmt.Fprintf(w, "  %s\n", e)
		}
	}
}

func printResync(w io.Writer, done []admin.Resync) {
	lines := [][]string{{"POD", "REPAIRED", "ERROR"}}
	for _, d := range done {
		lines = append(lines, []string{d.Pod, fmt.Sprint(d.Repaired), cmp.Or(d.Error, "-")})
	}
	table(w, lines...)
}

func printProbe(w io.Writer, probe admin.Probe) {
	lines := [][]string{
		{"Answered in", probe.Took},
		{"Holds", fmt.Sprintf("generation %d (%s)", probe.Hello.Generation, probe.Hello.Digest)},
		{"Agent", cmp.Or(probe.Hello.Version, "none: the node's own kernel")},
	}
	for _, b := range probe.Hello.Backends {
		lines = append(lines, []string{b.Family, cmp.Or(b.Engine, "none") + " " + b.Reason})
	}
	table(w, lines...)
}
