package main

import (
	"flag"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// settings reads a command line as main does.
func settings(t *testing.T, args ...string) options {
	t.Helper()
	var o options
	flags := flag.NewFlagSet("cri-ext-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	o.bind(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args    []string
		want    listener
		engines []string
	}{
		{nil, listener{port: DefaultPort}, []string{"ipvs", "nftables", "iptables"}},
		{[]string{"--listen=vsock:5"}, listener{port: 5}, []string{"ipvs", "nftables", "iptables"}},
		{[]string{"--listen=serial:/dev/virtio-ports/x", "--engine=nftables"}, listener{serial: "/dev/virtio-ports/x"}, []string{"nftables"}},
	} {
		o := settings(t, tt.args...)
		from, engines, err := o.parse()
		if err != nil || from != tt.want || !slices.Equal(engines, tt.engines) {
			t.Errorf("%v: %+v, %v, %v", tt.args, from, engines, err)
		}
	}
	for _, args := range [][]string{
		{"--listen="}, {"--listen=vsock"}, {"--listen=vsock:0"}, {"--listen=vsock:4294967295"}, {"--listen=vsock:-1"},
		{"--listen=tcp:1"}, {"--listen=serial:"}, {"--listen=serial:relative"},
		{"--engine="}, {"--engine=magic"}, {"--engine=ipvs,ipvs"}, {"--repair-every=0s"}, {"--repair-every=-1m"},
	} {
		o := settings(t, args...)
		if _, _, err := o.parse(); err == nil || !strings.Contains(err.Error(), "--") {
			t.Errorf("%v: the error is %v, want one that names the flag", args, err)
		}
	}
}

func TestPortThatIsNotThere(t *testing.T) {
	o := settings(t, "--listen=serial:"+filepath.Join(t.TempDir(), "port"))
	err := run(t.Context(), o, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "opening the virtio-serial port") {
		t.Errorf("error is %v", err)
	}
}

// The agent is in every sandbox's memory. Of Kubernetes it needs the type of a UID.
func TestAgentStaysSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	var kubernetes []string
	for line := range strings.Lines(string(out)) {
		if name := strings.TrimSpace(line); strings.Contains(name, "k8s.io/") || strings.Contains(name, "google.golang.org/") {
			kubernetes = append(kubernetes, name)
		}
	}
	if diff := cmp.Diff([]string{"k8s.io/apimachinery/pkg/types"}, kubernetes); diff != "" {
		t.Errorf("what it takes of Kubernetes and gRPC (-want +got):\n%s", diff)
	}
}
