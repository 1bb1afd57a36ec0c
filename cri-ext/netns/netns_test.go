package netns

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// namespace makes a network namespace that has a path, as container runtimes do.
func namespace(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestOpenTakesNetworkNamespacesOnly(t *testing.T) {
	dir := t.TempDir()
	good := namespace(t)
	link, pipe, file := filepath.Join(dir, "link"), filepath.Join(dir, "pipe"), filepath.Join(dir, "file")
	if err := errors.Join(os.Symlink(good, link), unix.Mkfifo(pipe, 0o600), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		good:                "",
		link:                "no namespace", // the link itself is looked at
		pipe:                "no namespace",
		file:                "no namespace",
		dir:                 "no namespace",
		"/dev/null":         "no namespace",
		"/proc/self/ns/net": "no namespace", // as above
		dir + "/none":       "no such file",
		"ns":                "not absolute",
		"":                  "not absolute",
	} {
		opened, err := open(path)
		if opened != nil {
			opened.Close()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v; want %q", path, err, want)
		}
	}
	// The node's own, and one of another kind, mounted as a sandbox's would be.
	for source, want := range map[string]string{"/proc/thread-self/ns/net": "of the node", "/proc/thread-self/ns/uts": "not of networks"} {
		if err := unix.Mount(source, file, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		_, err := open(file)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", source, err, want)
		}
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
}

func set(t *testing.T, tenant types.UID, generation uint64, n int) *ruleset.Set {
	t.Helper()
	var services []ruleset.Service
	for i := range n {
		services = append(services, ruleset.Service{
			Key:       ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, 96, 0, byte(i + 1)}), Protocol: ruleset.TCP, Port: 80},
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:8080")},
		})
	}
	made, err := ruleset.New(tenant, generation, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, services)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func grant(t *testing.T, to ruleset.Recipient, from, set *ruleset.Set) ruleset.Granted {
	t.Helper()
	var delta *ruleset.Delta
	if from != nil {
		var err error
		if delta, err = ruleset.Diff(from, set); err != nil {
			t.Fatal(err)
		}
	}
	granted, err := to.Accept(set, delta)
	if err != nil {
		t.Fatal(err)
	}
	return granted
}

// In a real namespace: whole, by a delta, after a restart, and never another tenant's.
func TestChannel(t *testing.T) {
	path, recipient := namespace(t), ruleset.Recipient{Tenant: "a", Sandbox: "s1"}
	c := New(recipient, path, nil, nil)
	if _, err := c.Send(t.Context(), grant(t, recipient, nil, set(t, "a", 1, 1))); !errors.Is(err, errNotOpen) {
		t.Errorf("a channel that was not opened: %v", err)
	}
	hello, err := c.Hello(t.Context())
	if err != nil || hello.Generation != 0 || len(hello.Backends) != 2 {
		t.Fatalf("hello %+v, %v", hello, err)
	}
	first, second := set(t, "a", 1, 3), set(t, "a", 2, 4)
	ack, err := c.Send(t.Context(), grant(t, recipient, nil, first))
	if err != nil || ack.Delta || ack.Generation != 1 || ack.Digest != first.Digest() {
		t.Fatalf("whole: %+v, %v", ack, err)
	}
	if ack, err = c.Send(t.Context(), grant(t, recipient, first, second)); err != nil || !ack.Delta || ack.Digest != second.Digest() {
		t.Fatalf("delta: %+v, %v", ack, err)
	}
	// A delta that starts from something else: the whole set.
	if ack, err = c.Send(t.Context(), grant(t, recipient, set(t, "a", 7, 2), set(t, "a", 8, 5))); err != nil || ack.Delta || ack.Generation != 8 {
		t.Fatalf("delta that does not fit: %+v, %v", ack, err)
	}
	live, err := c.Dump(t.Context())
	if diff := cmp.Diff(set(t, "a", 8, 5).Services(), live, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("dump: %v\n%s", err, diff)
	}
	if n, err := c.Repair(t.Context()); n != 0 || err != nil {
		t.Errorf("repair of what is right: %d, %v", n, err)
	}
	other := ruleset.Recipient{Tenant: "b", Sandbox: "s2"}
	var mismatch *ruleset.MismatchError
	if _, err := c.Send(t.Context(), grant(t, other, nil, set(t, "b", 1, 1))); !errors.As(err, &mismatch) {
		t.Errorf("another tenant's rules: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	again := New(recipient, path, nil, nil)
	defer again.Close()
	if hello, err = again.Hello(t.Context()); err != nil || hello.Generation != 8 || hello.Digest != set(t, "a", 8, 5).Digest() {
		t.Errorf("after a restart it holds %+v, %v", hello, err)
	}
	// Whoever believes that the namespace is another tenant's is told by the kernel.
	wrong := New(other, path, nil, nil)
	defer wrong.Close()
	if _, err := wrong.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Send(t.Context(), grant(t, other, nil, set(t, "b", 9, 1))); !errors.As(err, &mismatch) {
		t.Errorf("another tenant's namespace: %v", err)
	}
}

func TestChannelToNowhere(t *testing.T) {
	c := New(ruleset.Recipient{Tenant: "a", Sandbox: "s1"}, filepath.Join(t.TempDir(), "gone"), nil, nil)
	if _, err := c.Hello(t.Context()); err == nil {
		t.Error("a namespace that is not there was opened")
	}
	if _, err := c.Dump(t.Context()); !errors.Is(err, errNotOpen) {
		t.Error(err)
	}
	if _, err := c.Repair(t.Context()); !errors.Is(err, errNotOpen) {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
