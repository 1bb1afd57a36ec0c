package driver

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/cri-ext/guest"
	"github.com/bulkhead-dev/bulkhead/cri-ext/netns"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

func TestParseRule(t *testing.T) {
	for text, want := range map[string]string{
		"kata=hybrid-vsock:/run/kata/{id}/root/kata.hvsock": "",
		"kata-qemu=kata-shim:/run/kata/{id}/shim.sock":      "",
		"fc=virtio-serial:/run/fc/{id}.sock":                "",
		"runc=netns":                                        "",
		"":                                                  "runtime handler",
		"kata":                                              "runtime handler",
		"=netns":                                            "runtime handler",
		"KATA=netns":                                        "runtime handler",
		"kata=tcp:/x/{id}":                                  "no way",
		"kata=netns:/x":                                     "takes no path",
		"kata=hybrid-vsock":                                 "absolute",
		"kata=hybrid-vsock:x/{id}":                          "absolute",
		"kata=hybrid-vsock:/run/../{id}":                    "plain",
		"kata=hybrid-vsock:/run/kata.hvsock":                "{id}",
		"kata=hybrid-vsock:/run/{id}/{id}":                  "once",
		"kata=hybrid-vsock:/run/{id}/{pod}":                 "nothing but",
	} {
		rule, err := ParseRule(text)
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q is %+v, %v; want an error with %q", text, rule, err, want)
		}
	}
	var rules Rules
	if err := rules.Set("kata=netns"); err != nil {
		t.Fatal(err)
	}
	if err := rules.Set("kata=hybrid-vsock:/{id}"); err == nil {
		t.Error("two ways for one handler were taken")
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add("kata=hybrid-vsock:/run/kata/{id}/root/kata.hvsock")
	f.Add("runc=netns")
	f.Fuzz(func(t *testing.T, text string) {
		rule, err := ParseRule(text)
		if err != nil {
			return
		}
		rules := Rules{rule}
		if rules.String() != text {
			t.Errorf("%q becomes %q", text, rules.String())
		}
		if rule.Kind != Netns {
			path := strings.ReplaceAll(rule.Path, idPlace, strings.Repeat("a", 64))
			if !filepath.IsAbs(path) || strings.Contains(path, "..") && filepath.Clean(path) != path {
				t.Errorf("%q leads to %q", text, path)
			}
		}
	})
}

var id = strings.Repeat("0af", 21) + "1"

func TestOpen(t *testing.T) {
	d := &Drivers{Port: 10240}
	for _, rule := range []string{"kata=hybrid-vsock:/run/kata/{id}/root/kata.hvsock", "qemu=virtio-serial:/run/q/{id}"} {
		if err := d.Rules.Set(rule); err != nil {
			t.Fatal(err)
		}
	}
	recipient := ruleset.Recipient{Tenant: "a", Sandbox: id}
	status := func(handler, id string) cri.Status {
		return cri.Status{Sandbox: cri.Sandbox{ID: id}, Handler: handler, NetworkNamespace: "/run/netns/x"}
	}
	for _, handler := range []string{"", "runc"} {
		c, err := d.Open(recipient, status(handler, "any"))
		if _, is := c.(*netns.Channel); !is || err != nil || c.Recipient() != recipient {
			t.Errorf("handler %q: %T, %v", handler, c, err)
		}
	}
	if _, err := d.Open(recipient, cri.Status{}); err == nil {
		t.Error("a network namespace without a path was opened")
	}
	for _, handler := range []string{"kata", "qemu"} {
		c, err := d.Open(recipient, status(handler, id))
		if _, is := c.(*guest.Client); !is || err != nil || c.Recipient() != recipient {
			t.Errorf("handler %q: %T, %v", handler, c, err)
		}
		for _, bad := range []string{"", "../../etc", id + "0", strings.ToUpper(id), id[:63] + "/"} {
			if _, err := d.Open(recipient, status(handler, bad)); err == nil {
				t.Errorf("sandbox ID %q became part of a path", bad)
			}
		}
	}
	// The same guest cannot be two sandboxes'.
	if _, err := d.Open(ruleset.Recipient{Tenant: "b", Sandbox: id}, status("kata", id)); err == nil {
		t.Error("a guest was claimed twice")
	}
}

// serveShim answers as a Kata shim does.
func serveShim(t *testing.T, answer func() string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/agent-url" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, answer())
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return socket
}

func TestShimIsAskedEachTime(t *testing.T) {
	url := ""
	registry := &transport.Registry{}
	s := &shim{registry: registry, sandbox: id, socket: serveShim(t, func() string { return url }), port: 10240}
	for _, test := range []struct{ url, want string }{
		{"", "empty"},
		{"tcp://1.2.3.4:5", "no vsock"},
		{"vsock://:1024", "no address"},
		{"vsock://2:1024", "is no guest's"},
		{"hvsock:///run/kata/other/kata.hvsock:1024", "not that sandbox's"},
		{"hvsock:///nowhere/" + id + "/kata.hvsock:1024", "/nowhere/" + id + "/kata.hvsock"},
		{"hvsock:///elsewhere/" + id + "/kata.hvsock:1024", "/elsewhere/" + id + "/kata.hvsock"},
	} {
		url = test.url
		if _, err := s.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v; want an error with %q", url, err, test.want)
		}
	}
	// Another sandbox cannot have the guest as long as this one does.
	other := &shim{registry: registry, sandbox: id, socket: s.socket, port: 10240}
	if _, err := other.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "bound to sandbox") {
		t.Errorf("a guest was claimed twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Dial(t.Context()); err == nil || strings.Contains(err.Error(), "bound to sandbox") {
		t.Errorf("a guest that was given up: %v", err)
	}
}
