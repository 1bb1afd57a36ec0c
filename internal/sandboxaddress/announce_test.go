package sandboxaddress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"

	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

var web = Sandbox{UID: "1", Namespace: "web", Name: "front", Addresses: []netip.Addr{netip.MustParseAddr("10.78.1.5"), netip.MustParseAddr("fd78::5")}}

func serve(t *testing.T, uid uint32, fence func(context.Context, Sandbox) error) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandboxes")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	listener, err := unixsocket.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, uid, logr.Discard(), fence) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return socket
}

func TestAnnounce(t *testing.T) {
	var got Sandbox
	socket := serve(t, uint32(os.Getuid()), func(_ context.Context, s Sandbox) error {
		got = s
		if s.Name == "bad" {
			return errors.New("no such pod")
		}
		return nil
	})
	if err := Announce(t.Context(), socket, web); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(web, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	bad := web
	bad.Name = "bad"
	if err := Announce(t.Context(), socket, bad); err == nil || !strings.Contains(err.Error(), "no such pod") {
		t.Errorf("%v", err)
	}
	if err := Announce(t.Context(), socket, Sandbox{}); err == nil || !strings.Contains(err.Error(), "names no pod") {
		t.Errorf("%v", err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Who waits in vain is let go, on both sides.
func TestAnnounceEndsWithItsContext(t *testing.T) {
	gone := make(chan struct{})
	socket := serve(t, uint32(os.Getuid()), func(ctx context.Context, _ Sandbox) error {
		<-ctx.Done()
		close(gone)
		return ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := Announce(ctx, socket, web); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	<-gone
	if err := Announce(t.Context(), socket+"-of-nobody", web); err == nil {
		t.Error("nobody answered")
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	socket := serve(t, uint32(os.Getuid())+1, func(context.Context, Sandbox) error {
		t.Error("it was heard")
		return nil
	})
	if err := Announce(t.Context(), socket, web); err == nil {
		t.Error("it was answered")
	}
}

// Garbage is answered or cut off, and bothers nobody else.
func TestGarbage(t *testing.T) {
	socket := serve(t, uint32(os.Getuid()), func(context.Context, Sandbox) error { return nil })
	for _, garbage := range []string{"\n", "{}\n", "null\n", "[1]\n", strings.Repeat("x", 2*maxLine), `{"uid":"1","namespace":"a","name":"b","addresses":["fe80::1%eth0"]}` + "\n"} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(garbage))
		buffer := make([]byte, 1024)
		if n, err := conn.Read(buffer); err == nil && !strings.Contains(string(buffer[:n]), "error") {
			t.Errorf("%.20q: %s", garbage, buffer[:n])
		}
		conn.Close()
	}
	if err := Announce(t.Context(), socket, web); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"uid":"1","namespace":"a","name":"b","addresses":["10.0.0.1","::ffff:1.2.3.4"]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		sandbox, err := parse(line)
		if err != nil {
			return
		}
		for _, address := range sandbox.Addresses {
			if !address.IsValid() || address.Is4In6() || address.Zone() != "" {
				t.Errorf("address %q", address)
			}
		}
	})
}
