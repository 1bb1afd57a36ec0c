package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
	"github.com/bulkhead-dev/bulkhead/internal/feed"
)

// command runs a verb against the node's cri-ext.
func (n *node) command(args ...string) string {
	n.t.Helper()
	var out bytes.Buffer
	c := newCommand(&out, &out)
	c.SetArgs(append(args, "--admin", n.options.admin))
	if err := c.ExecuteContext(n.t.Context()); err != nil {
		return "Error: " + err.Error()
	}
	return out.String()
}

func (n *node) expectOutput(args string, patterns ...string) {
	n.t.Helper()
	out := n.command(strings.Fields(args)...)
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(out) {
			n.t.Errorf("cri-ext %s prints no %s:\n%s", args, pattern, out)
		}
	}
}

// Every verb, on a real sandbox; and one whose rules somebody has thrown away.
func TestCommands(t *testing.T) {
	n := newNode(t)
	pod := feed.Pod{UID: "uid-1", Namespace: "vc-acme-default-xyz", Name: "web", Tenant: "acme"}
	n.feeder.PutPod(pod)
	n.feeder.PodsComplete()
	config := podConfig(pod.Namespace, pod.Name, string(pod.UID))
	id, container := n.sandbox(config)
	n.put("acme", n.serveIn(id, "acme"))
	if err := n.startContainer(container); err != nil {
		t.Fatal(err)
	}
	n.sandbox(podConfig("vc-acme-default-xyz", "stranger", "uid-2"))
	eventually(t, "the stranger", func() bool { return n.view("uid-2").State == sandbox.Unbound })

	n.expectOutput("status", `tenant-proxy .*: connected`, `Runtime .*: answers`, `Sandboxes Current +1`, `Sandboxes Unbound +1`)
	n.expectOutput("pods", `vc-acme-default-xyz/web +`+id[:13]+` +acme +Current +1 +1 +IPv4=`, `stranger .*Unbound.*tenant-proxy knows no pod`)
	n.expectOutput("pods -o json", `"tenant": "acme"`)
	n.expectOutput("rules uid-1", `Generation 1, networks of ClusterIPs \[10.96.0.0/16\]`, `10.96.0.80:80/tcp +- +10\.213\.7\.`)
	n.expectOutput("rules "+id[:8]+" --live", `10.96.0.80:80/tcp +- +10\.213\.7\.`)
	n.expectOutput("diff uid-1", `No difference: the sandbox holds generation 1`)
	n.expectOutput("trace vc-acme-default-xyz/web 10.96.0.80:80", `Translated`, `10\.213\.7\.`)
	n.expectOutput("trace uid-1 10.96.0.80:80/udp", `Refused`, `it has 80/TCP`)
	n.expectOutput("probe uid-1", `Holds +generation 1`, `IPv4 +(nftables|ipvs)`)
	n.expectOutput("metrics", `bulkhead_cri_ext_gate_wait_seconds_count\{result="passed"\} 1`, `bulkhead_cri_ext_tenant_mismatch_total 0`,
		`bulkhead_cri_ext_rules\{kind="services",tenant="acme"\} 1`, `bulkhead_cri_ext_process_resident_memory_bytes`)
	n.expectOutput("rules nobody", `Error: no tenant's sandbox on this node is "nobody"`)
	n.expectOutput("resync", `Error: name a pod, or all`)
	n.expectOutput("pods -o yaml", `Error: --output "yaml" must be`)
	n.expectOutput("trace uid-1 web:80", `Error: "web:80" is no address`)

	// Nothing is left of the rules, as after `nft flush ruleset` in the sandbox.
	n.within(id, func() {
		for _, table := range strings.Split(strings.TrimSpace(nft(t, "list", "tables")), "\n") {
			nft(t, append([]string{"delete"}, strings.Fields(table)...)...)
		}
	})
	n.expectOutput("diff uid-1", `10.96.0.80:80/tcp +missing`)
	n.expectOutput("resync uid-1", `vc-acme-default-xyz/web +[1-9]`)
	n.expectOutput("resync --all", `vc-acme-default-xyz/web +0 +-`, `stranger .*there is no channel`)
	n.expectOutput("diff uid-1", `No difference`)
	n.expectAnswer(id, "acme")

	text, err := n.feeder.Metrics(t.Context())
	if err != nil || !bytes.Contains(text, []byte("bulkhead_cri_ext_sandboxes")) {
		t.Errorf("metrics for tenant-proxy: %d bytes, %v", len(text), err)
	}
	select {
	case report := <-n.feeder.Reports():
		if report.Pod != pod {
			t.Errorf("report %+v", report)
		}
	case <-time.After(time.Minute):
		t.Error("no report came")
	}
}

// nft runs Debian's command in this thread's network namespace.
func nft(t *testing.T, args ...string) string {
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Errorf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestOptions(t *testing.T) {
	good := func(change func(*options)) *options {
		o := &options{}
		o.listen, o.runtime, o.feed, o.admin = "unix:///a", "/b", "/c", "unix:///d"
		o.gate, o.gateTimeout, o.repairInterval, o.agentPort = gateStart, time.Second, time.Second, guestPort
		change(o)
		return o
	}
	for want, change := range map[string]func(*options){
		"":                            func(*options) {},
		"--listen \"a\" must be":      func(o *options) { o.listen = "a" },
		"--feed \"tcp://x\" must be":  func(o *options) { o.feed = "tcp://x" },
		"--listen and --runtime":      func(o *options) { o.runtime = "unix:///a" },
		"--gate \"run\" must be":      func(o *options) { o.gate = "run" },
		"--gate-timeout 0s":           func(o *options) { o.gateTimeout = 0 },
		"--agent-port 0":              func(o *options) { o.agentPort = 0 },
		"there is no engine \"ebpf\"": func(o *options) { o.engine = "nftables,ebpf" },
	} {
		err := good(change).check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	command := newCommand(&bytes.Buffer{}, &bytes.Buffer{})
	command.SetArgs([]string{"serve", "--runtime-handler", "kata=tcp:/x", "--listen", filepath.Join(t.TempDir(), "s")})
	if err := command.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "no way") {
		t.Errorf("a runtime handler without a way: %v", err)
	}
}
